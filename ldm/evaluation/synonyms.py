"""Other words for concepts: keywords of the data, and words that no caption has and the text encoder knows."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ldm.data.captions import keywords_of

# concept -> other words for it, by hand; which of them a data set has really never used is found by `unseen`
SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("jetliner", "airliner"), "ambulance": ("paramedic van",), "automobile": ("sedan", "hatchback"),
    "axe": ("hatchet", "tomahawk"), "baby-chick": ("hatchling", "fledgling"), "bacon": ("pork rashers",),
    "balloon": ("inflatable toy",), "bat": ("flying nocturnal mammal",), "bathtub": ("jacuzzi",),
    "bed": ("mattress", "bunk"), "bicycle": ("two-wheeler", "velocipede"), "books": ("novels", "textbooks"),
    "bouquet": ("posy", "nosegay"), "bread": ("toast", "sourdough"), "broom": ("besom",), "bus": ("omnibus",),
    "butterfly": ("monarch insect", "lepidopteran"), "camera": ("kodak", "photographic device"),
    "candle": ("taper", "wax stick"), "carrot": ("orange root vegetable",), "castle": ("citadel", "stronghold"),
    "cat-face": ("tomcat", "tabby"), "chair": ("stool",), "cheese-wedge": ("cheddar", "gouda"),
    "chocolate-bar": ("cocoa sweet",), "christmas-tree": ("yuletide fir", "noel spruce"), "church": ("cathedral",),
    "cloud": ("cumulus",), "cookie": ("biscuit",), "couch-and-lamp": ("settee", "loveseat"), "cow-face": ("heifer",),
    "crab": ("crustacean with claws",), "crocodile": ("caiman",), "crown": ("diadem", "coronet"),
    "cupcake": ("muffin",), "dagger": ("stiletto", "dirk"), "dog-face": ("hound", "mutt"),
    "donkey": ("jackass", "burro"),
    "door": ("gateway", "portal"), "doughnut": ("cruller",), "dress": ("frock",), "droplet": ("raindrop",),
    "duck": ("mallard",), "elephant": ("pachyderm",), "evergreen-tree": ("conifer", "spruce"),
    "eagle": ("raptor",), "fire": ("inferno", "bonfire"), "fish": ("trout", "salmon"), "flashlight": ("hand lantern",),
    "frog": ("toad",), "gem-stone": ("brilliant sapphire",), "ghost": ("phantom", "apparition"), "grapes": ("raisins",),
    "guitar": ("ukulele",), "hamburger": ("beefburger",), "hammer": ("mallet",), "helicopter": ("rotorcraft",),
    "horse-face": ("mare", "colt"), "house": ("dwelling", "cottage"), "jeans": ("dungarees",), "key": ("latchkey",),
    "kitchen-knife": ("cleaver",), "lion": ("lioness",), "locomotive": ("choo-choo",), "mobile-phone": ("handset",),
    "motorcycle": ("motorbike",), "mountain": ("alp", "summit"), "mouse-face": ("vole",), "octopus": ("kraken",),
    "package": ("carton",), "palm-tree": ("date palm",), "pencil": ("crayon stick",),
    "penguin": ("flightless seabird",),
    "pig-face": ("swine", "hog"), "pizza": ("margherita",), "potato": ("spud", "tuber"), "rabbit-face": ("hare",),
    "red-heart": ("valentine symbol",), "rocket": ("missile",), "rose": ("red blossom with thorns",),
    "sailboat": ("dinghy", "catamaran"), "scissors": ("shears",), "shark": ("great white",),
    "skull": ("cranium",), "snail": ("gastropod",), "snake": ("viper", "cobra"),
    "snowman": ("frosty figure",), "spider": ("tarantula",), "strawberry": ("red summer berry",),
    "sun": ("solar disc",), "teapot": ("tea kettle",), "television": ("telly",), "tent": ("wigwam",),
    "tiger-face": ("tigress",), "toilet": ("lavatory", "commode"), "tomato": ("red salad fruit",),
    "tractor": ("farm vehicle",), "train": ("railroad carriage",), "trophy": ("winner's cup",), "trumpet": ("bugle",),
    "turtle": ("terrapin",), "umbrella": ("brolly", "parasol"), "violin": ("viola",), "volcano": ("erupting crater",),
    "watch": ("chronometer",), "whale": ("cetacean",), "wine-glass": ("goblet",), "wolf": ("coyote",),
}  # fmt: skip


def unseen(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The synonyms of concepts in `rows` of which no word is in any name or keyword of `rows`.

    Args:
        rows: metadata of the training pictures, with `concept`, `name` and `keywords`.

    Returns:
        concept -> words, for concepts that have any left.
    """
    seen: set[str] = set()
    concepts: set[str] = set()
    for row in rows:
        concepts.add(row["concept"])
        for text in (row["name"], *keywords_of(row)):
            seen.update(_words(text))
    left = {c: tuple(s for s in words if seen.isdisjoint(_words(s))) for c, words in SYNONYMS.items() if c in concepts}
    return {concept: words for concept, words in left.items() if words}


def keywords_of_one(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The keywords that one concept of `rows` has and no other, and that are no name either.

    Args:
        rows: metadata of the training pictures, with `concept`, `name` and `keywords`.

    Returns:
        concept -> keywords, in the order of the data, for concepts that have any.
    """
    having: dict[str, dict[str, None]] = {}
    names: set[str] = set()
    for row in rows:
        names.add(row["name"])
        for word in keywords_of(row):
            having.setdefault(word, {})[row["concept"]] = None
    found: dict[str, tuple[str, ...]] = {}
    for word, concepts in having.items():
        if len(concepts) == 1 and word not in names:
            (concept,) = concepts
            found[concept] = (*found.get(concept, ()), word)
    return found


def _words(text: str) -> set[str]:
    """The words of a text and, crudely, their singulars."""
    found = set(re.findall(r"[a-z]+", text.lower()))
    return found | {word[:-1] for word in found if word.endswith("s")}
