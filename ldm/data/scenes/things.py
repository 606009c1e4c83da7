"""What scenes are made of: the names of things, other words for them, their plurals, and the emoji that draw them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# One thing a line: name [+plural] [= emoji, emoji] [: other words]. The emoji default to the name. "+-" marks a name
# that is not counted and takes no article: a mass ("bread") or a pair ("scissors"). "~" marks
# such a word among the others.
TABLE = """
monkey = monkey, monkey face
gorilla
orangutan : ape
dog = dog, dog face : puppy
poodle
wolf +wolves
fox
raccoon
cat = cat, cat face : kitten, kitty
black cat
lion
tiger = tiger, tiger face
leopard
horse = horse, horse face : pony
moose +moose
donkey
unicorn
zebra
deer +deer
bison +bison
cow = cow, cow face
ox +oxen : bull
water buffalo +water buffalo
pig = pig, pig face : piglet
boar
ram
sheep +sheep = ewe : lamb
goat
camel
llama
giraffe
elephant
mammoth
rhinoceros +rhinos : rhino
hippopotamus +hippos : hippo
mouse +mice = mouse, mouse face
rat
hamster
rabbit = rabbit, rabbit face : bunny
chipmunk : squirrel
beaver
hedgehog
bat
bear : teddy
polar bear
koala
panda
sloth
otter
skunk
kangaroo
badger
turkey
chicken : hen
rooster : cock
chick = baby chick, front-facing baby chick : baby chicken
bird
penguin
dove : pigeon
eagle
duck
swan
owl
dodo
feather
flamingo
peacock
parrot
goose +geese
frog : toad
crocodile : alligator
turtle : tortoise
lizard
snake
dragon = dragon, dragon face
brontosaurus = sauropod : dinosaur
t-rex +t-rexes : tyrannosaurus
whale = whale, spouting whale
dolphin
seal
fish +fish
tropical fish +tropical fish
pufferfish +pufferfish = blowfish
shark
octopus
shell = spiral shell : seashell
coral +-
jellyfish +jellyfish
crab
lobster
shrimp +shrimp : prawn
squid +squid
oyster
snail
butterfly +butterflies
caterpillar = bug
ant
bee = honeybee : honeybee
beetle
ladybug = lady beetle : ladybird
cricket : grasshopper
cockroach
spider
spider web : cobweb
scorpion
mosquito
fly +flies
worm
bouquet : bunch of flowers
cherry blossom
white flower
lotus
rose
wilted rose = wilted flower
hibiscus
sunflower
daisy +daisies = blossom
tulip
hyacinth
seedling : sprout
potted plant : houseplant
pine tree = evergreen tree : fir
tree = deciduous tree
palm tree
cactus +cacti
clover = shamrock, four leaf clover
maple leaf +maple leaves
autumn leaf +autumn leaves = fallen leaf
green leaf +green leaves = leaf fluttering in wind
nest = nest with eggs, empty nest
mushroom : toadstool
grapes +-
melon
watermelon
orange = tangerine : mandarin
lemon
lime
banana
pineapple
mango
apple = red apple, green apple
pear
peach +peaches
cherries +-
strawberry +strawberries
blueberries +-
kiwi = kiwi fruit
tomato +tomatoes
olive
coconut
avocado
eggplant : aubergine
potato +potatoes
carrot
corn +- = ear of corn : maize
chili pepper = hot pepper : chili
bell pepper : paprika
cucumber
lettuce +- = leafy green
broccoli +-
garlic +-
onion
peanuts +-
chestnut
ginger +- = ginger root
pea pod
bread +- : loaf of bread
croissant
baguette = baguette bread
pretzel
bagel
pancakes +-
waffle
cheese +- = cheese wedge
steak = cut of meat
ham = meat on bone : ~meat
chicken leg = poultry leg : drumstick
bacon +-
hamburger : burger, cheeseburger
french fries +- : fries, chips
pizza : slice of pizza
hot dog
sandwich +sandwiches
taco
burrito
egg
fried egg = cooking
paella +- = shallow pan of food
stew +- = pot of food
soup +- = bowl with spoon
salad +- = green salad
popcorn +-
butter +-
salt shaker = salt
can = canned food : tin
rice cracker
rice ball
bowl of rice = cooked rice
ramen +- = steaming bowl : noodles, noodle soup
spaghetti +- : pasta
sweet potato +sweet potatoes = roasted sweet potato
sushi +-
fried shrimp +fried shrimp
moon cake
dango +dango
dumpling
fortune cookie
takeout box +takeout boxes
ice cream cone = soft ice cream : soft ice
shaved ice +-
ice cream +- : sundae
doughnut : donut
cookie : biscuit
birthday cake : cake
shortcake : piece of cake
cupcake : muffin
pie
chocolate bar : ~chocolate
candy +candies : sweet
lollipop
custard +- : pudding
honey pot : ~honey
baby bottle
glass of milk : ~milk
coffee +- = hot beverage : cup of coffee
teapot
cup of tea = teacup without handle : ~tea
champagne bottle = bottle with popping cork
wine glass : ~wine
cocktail = cocktail glass : martini
tropical drink
beer +beers = beer mug : mug of beer
glass of whiskey = tumbler glass : ~whiskey
soda = cup with straw
bubble tea
juice box +juice boxes = beverage box
ice cube = ice
chopsticks +-
plate with fork and knife = fork and knife with plate : plate
spoon
knife +knives = kitchen knife
jar
vase = amphora
globe = globe showing americas, globe showing europe-africa : ~planet earth
world map : map
compass +compasses
snowy mountain = snow-capped mountain
mountain
volcano +volcanoes
mount fuji +-
campsite = camping
parasol = beach with umbrella
island = desert island
stadium
temple = classical building
brick = brick
rock : stone
log = wood
hut
ruin = derelict house
house : home
house with a garden = house with garden
office building
post office
hospital
bank
hotel
shop = convenience store : store
school
department store
factory +factories
japanese castle
castle
chapel = wedding
tower = tokyo tower
statue of liberty +-
church +churches
mosque
synagogue
shrine = shinto shrine
fountain
tent
hot spring = hot springs
carousel horse
slide = playground slide
ferris wheel
roller coaster
barber pole
circus tent
steam train = locomotive : locomotive
train car = railway car : railway carriage
bullet train = bullet train, high-speed train
train = train, metro
tram
monorail
bus +buses = bus, oncoming bus
minibus +minibuses
ambulance
fire truck = fire engine
police car = police car, oncoming police car
taxi = taxi, oncoming taxi : cab
car = automobile, oncoming automobile : automobile
jeep = sport utility vehicle : suv
pickup truck
truck = delivery truck : van, lorry
semi truck = articulated lorry
tractor
racing car : race car, formula one car
motorcycle : motorbike
scooter = motor scooter : moped
wheelchair = manual wheelchair
rickshaw = auto rickshaw : tuk-tuk
bicycle : bike
kick scooter
skateboard
roller skate
bus stop
oil drum : barrel
gas pump = fuel pump
wheel : tire
siren = police car light
traffic light = vertical traffic light, horizontal traffic light
stop sign
anchor
life buoy = ring buoy
sailboat : sailing boat
canoe
speedboat
ferry +ferries
motorboat = motor boat
ship = ship, passenger ship
airplane : plane, aeroplane
small airplane
parachute
seat
helicopter
cable car = aerial tramway
satellite
rocket : spaceship
flying saucer : ufo
service bell = bellhop bell
suitcase = luggage
hourglass +hourglasses = hourglass done, hourglass not done
watch +watches : wristwatch
alarm clock
stopwatch +stopwatches
mantel clock = mantelpiece clock
full moon
moon = crescent moon : crescent
thermometer
sun
sun with a face = sun with face
saturn +- = ringed planet : planet
star
glowing star
shooting star
cloud
storm cloud = cloud with lightning and rain
rain cloud = cloud with rain
tornado +tornadoes
rainbow
closed umbrella
umbrella
beach umbrella = umbrella on ground
lightning bolt = high voltage : ~lightning
snowflake
snowman +snowmen = snowman, snowman without snow
comet
fire +- : flame
water drop = droplet : drop
wave = water wave
jack-o'-lantern = jack-o-lantern : pumpkin, halloween pumpkin
christmas tree
fireworks +-
firecracker : ~dynamite
balloon
party popper
bamboo tree = tanabata tree
wind chime
red envelope
ribbon : bow
gift = wrapped gift : present
ticket
military medal
trophy +trophies : cup
medal = sports medal : gold medal
soccer ball : football
baseball
softball
basketball
volleyball
american football
rugby ball = rugby football
tennis ball = tennis
frisbee = flying disc
bowling ball = bowling
cricket bat = cricket game
hockey stick = ice hockey, field hockey
lacrosse stick = lacrosse
table tennis paddle = ping pong
badminton racket = badminton
boxing glove
judo uniform = martial arts uniform
golf flag = flag in hole
ice skate
fishing rod = fishing pole
diving mask : snorkel
skis +-
sled
curling stone
target = bullseye : bullseye
yo-yo
kite
water gun = water pistol : toy gun
billiard ball = pool 8 ball : eight ball
crystal ball
magic wand
gamepad = video game : game controller
joystick
slot machine
die +dice = game die
puzzle piece
teddy bear
pinata
disco ball = mirror ball
nesting dolls +-
spade = spade suit
diamond = diamond suit
club = club suit
pawn = chess pawn
playing card = joker
theater masks +- = performing arts
painting = framed picture
palette = artist palette
thread +- : spool of thread
needle = sewing needle
yarn +- : ball of yarn
knot
glasses +-
sunglasses +-
goggles +-
lab coat
safety vest
tie = necktie
t-shirt : shirt
jeans +- : pants
scarf +scarves
gloves +- : mittens
coat : jacket
socks +-
dress +dresses
kimono
sari
swimsuit = one-piece swimsuit
shorts +-
bikini
blouse = woman's clothes
fan = folding hand fan
purse
handbag : bag
clutch bag
shopping bags +-
backpack : school bag
flip-flop = thong sandal
shoe = man's shoe
sneaker = running shoe : running shoe
hiking boot : boot
flat shoe
high heel = high-heeled shoe
sandal = woman's sandal
ballet shoes +-
cowboy boot = woman's boot
crown
sun hat = woman's hat : hat
top hat
graduation cap
baseball cap = billed cap : cap
army helmet = military helmet : helmet
necklace = prayer beads
lipstick
ring
gem = gem stone : jewel
megaphone
horn = postal horn
bell
musical note
microphone = microphone, studio microphone
headphones +- = headphone
radio
saxophone
trumpet
accordion
guitar
piano keyboard = musical keyboard : piano
violin
banjo
drum
maracas +-
flute
phone = mobile phone : mobile phone, smartphone
telephone
telephone receiver
pager
fax machine
battery +batteries
plug = electric plug
laptop
computer = desktop computer
printer
keyboard
computer mouse +computer mice
floppy disk
cd = optical disk
abacus
movie camera
film projector
clapper board
television : tv
camera
video camera
videocassette
magnifying glass = magnifying glass tilted left, magnifying glass tilted right
candle
light bulb : lamp
flashlight : torch
lantern = red paper lantern
oil lamp = diya lamp
notebook = notebook with decorative cover, notebook
book = closed book, green book, blue book, orange book
open book
stack of books = books
scroll
page = page facing up
newspaper
bookmark
label : tag
coin
money bag
banknote = dollar banknote : dollar bill
credit card
envelope : letter
love letter
package : box
mailbox +mailboxes = closed mailbox with raised flag, closed mailbox with lowered flag
postbox +postboxes
pencil
fountain pen
pen
paintbrush +paintbrushes : brush
crayon
briefcase
folder = file folder
calendar = spiral calendar
bar chart
clipboard
pushpin
paperclip
ruler = straight ruler
scissors +-
wastebasket : trash can
padlock = locked : lock
key
old key
hammer
axe
pickaxe = pick
dagger
bomb
boomerang
bow and arrow
shield
saw = carpentry saw
wrench +wrenches
screwdriver
bolt = nut and bolt
gear : cog
clamp
scale = balance scale
cane = white cane
hook
toolbox +toolboxes
magnet
ladder
flask = alembic
test tube
microscope
telescope
satellite dish +satellite dishes = satellite antenna
syringe
blood drop = drop of blood
pill
bandage = adhesive bandage
crutch +crutches
stethoscope
door
mirror
window
bed
lamp and couch = couch and lamp : couch, sofa
chair
toilet
plunger
shower
bathtub
mousetrap = mouse trap
razor
lotion bottle
safety pin
broom
basket
toilet paper +- = roll of paper
bucket
soap +- : bar of soap
bubbles +-
toothbrush +toothbrushes
sponge
fire extinguisher
shopping cart
cigarette
coffin
gravestone = headstone
urn = funeral urn
stone head = moai
skull
clown = clown face
ogre
goblin
ghost
alien
space invader = alien monster
robot
poop +- = pile of poo
heart = red heart
broken heart
lips +- = kiss mark
explosion = collision
hand = hand with fingers splayed, raised hand
fist = raised fist, oncoming fist
arm = flexed biceps
leg
foot +feet
ear
nose
brain
tooth +teeth
bone
eye
tongue
mouth
footprints +-
baby +babies
boy
girl
man +men
woman +women
old man +old men
old woman +old women
man with a beard +men with beards = person with beard
doctor = health worker
student
teacher
judge
farmer
cook : chef
mechanic
scientist
singer
artist
pilot
astronaut
firefighter
police officer : policeman
detective
guard
ninja
construction worker
prince
princess +princesses
angel = baby angel
santa claus +-
superhero +superheroes
mage : wizard
fairy +fairies
vampire
mermaid
elf +elves
genie
zombie
troll
dancer = woman dancing
skier
snowboarder
surfer = person surfing
swimmer = person swimming
cyclist = person biking
happy face = smiling face with smiling eyes, grinning face with smiling eyes : smiley
laughing face = face with tears of joy
sad face = crying face, frowning face
angry face
sleeping face
cool face = smiling face with sunglasses
surprised face = astonished face, face with open mouth
face in love = smiling face with heart-eyes
"""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One kind of thing.

    Attributes:
        name: singular, lower case; a mass or a pair has only this form.
        plural: as captions count it; None: it is not counted and takes no article.
        emoji: names of the emoji that draw it, as `ldm.data.emoji.names` has them.
        synonyms: other words for it, singular.
        masses: other words for it that take no article and are not counted ("honey").
    """

    name: str
    plural: str | None
    emoji: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    masses: tuple[str, ...] = ()


def things(table: str = TABLE) -> dict[str, Thing]:
    """Every thing by its name, in the order of the table.

    Raises:
        ValueError: a line names a thing twice.
    """
    found: dict[str, Thing] = {}
    for line in filter(None, map(str.strip, table.splitlines())):
        thing = _parsed(line)
        if thing.name in found:
            raise ValueError(f"{thing.name!r} is in the table of things twice")
        found[thing.name] = thing
    return found


def plural_of(name: str) -> str:
    """Regular English plural of a singular noun: "bus stop" -> "bus stops", "cup of tea" -> "cups of tea"."""
    head, of, rest = name.partition(" of ")
    if of:
        return plural_of(head) + of + rest
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def emoji_names(table: Mapping[str, Thing] | Iterable[Thing]) -> set[str]:
    """Names of all emoji that the things need."""
    every = table.values() if isinstance(table, Mapping) else table
    return {emoji for thing in every for emoji in thing.emoji}


def _parsed(line: str) -> Thing:
    """One line of the table."""
    rest, _, others = line.partition(" : ")
    rest, _, emoji = rest.partition(" = ")
    name, _, plural = rest.partition(" +")
    name = name.strip()
    return Thing(
        name=name,
        plural=None if plural == "-" else plural or plural_of(name),
        emoji=_words(emoji) or (name,),
        synonyms=tuple(word for word in _words(others) if not word.startswith("~")),
        masses=tuple(word[1:] for word in _words(others) if word.startswith("~")),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
