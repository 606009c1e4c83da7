"""One scene: a captioned picture that is a pure function of (art, specification, seed, number)."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ldm.core.rng import fold
from ldm.data.scenes.art import OWN, Art, Sprite
from ldm.data.scenes.colours import COLOURS, GROUNDS, recolour, shade
from ldm.data.scenes.places import PLACES, place, plain
from ldm.data.scenes.split import held_colour, held_count, held_pair, held_thing

Kind = Literal["one", "colour", "ground", "count", "two", "position", "two_colours", "size", "place", "landscape"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Split = Literal["train", "heldout"]
WEIGHTS: dict[Kind, float] = {
    "one": 0.16, "colour": 0.17, "ground": 0.12, "count": 0.14, "two": 0.1, "position": 0.11, "two_colours": 0.08,
    "size": 0.05, "place": 0.06, "landscape": 0.01,
}  # fmt: skip
ONE = (58, 108)  # pixels of 128: the longer side of a thing that is alone and of no stated size
SIDES = {"tiny": (22, 30), "small": (34, 46), "large": (100, 114), "huge": (116, 128)}
MANY = {1: (70, 100), 2: (50, 60), 3: (40, 50), 4: (42, 50), 5: (34, 40)}
TWO = (48, 60)
CONTRAST = 70.0  # distance in sRGB that the mean of a thing keeps from the ground
TRIES = 200  # draws of names before a scene without a held-out (or with one) is given up


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One thing of a scene, as far as captions may speak of it.

    Attributes:
        name: of the thing.
        colour: the colour it was given; None: its natural one.
        size: "tiny", "small", "large" or "huge" where the caption says so.
    """

    name: str
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is true of a scene and may be said; what is None is not said, and varies.

    Attributes:
        kind: which of `KINDS` it is.
        things: one or two, none in a landscape. With two and `relation` left or above, the first is left of, or above,
            the second.
        count: how many of the first thing there are, where it is counted.
        ground: the ground's colour, where it is said.
        relation: "left", "above", "beside", or None for two things that are only both there.
        place: a key of `PLACES`.
        night: whether the place is shown at night.
        style: the art's style, where it is said.
        boxes: (left, top, right, bottom) of each thing shown, pixels of the picture, in the order of `things`.
        behind: the ground's colour, said or not; None in a place.
    """

    kind: Kind
    things: tuple[Shown, ...] = ()
    count: int | None = None
    ground: str | None = None
    relation: str | None = None
    place: str | None = None
    night: bool = False
    style: str | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    behind: str | None = None

    def row(self) -> dict[str, Any]:
        """The facts as JSON can hold them."""
        return asdict(self)


def facts_of(row: Mapping[str, Any]) -> Facts:
    """Facts from what `Facts.row` gave, also after JSON turned tuples into lists."""
    return Facts(
        **{
            **row,
            "things": tuple(Shown(**shown) for shown in row["things"]),
            "boxes": tuple(tuple(box) for box in row["boxes"]),
        }
    )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A composed scene.

    Attributes:
        picture: RGB.
        facts: what it shows.
    """

    picture: Image.Image
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """Which scenes to compose.

    Attributes:
        size: side of the squares, pixels.
        weights: share of each kind; missing ones are 0.
        split: "train" shows no held-out combination; "heldout" shows one in each scene of a kind that has them.
        styled: share of the scenes whose caption names the style.
    """

    size: int = 128
    weights: Mapping[Kind, float] = field(default_factory=lambda: dict(WEIGHTS))
    split: Split = "train"
    styled: float = 0.1

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 512:
            raise ValueError(f"size: {self.size} is outside 32 to 512 pixels")
        unknown = [kind for kind in self.weights if kind not in KINDS]
        if unknown:
            raise ValueError(f"weights: {unknown[0]!r} is no kind of scene; choose from {', '.join(KINDS)}")
        if not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError("weights: give shares of 0 or more, not all of them 0")
        if not 0 <= self.styled <= 1:
            raise ValueError(f"styled: {self.styled} is outside 0 to 1")


def compose(art: Art, spec: SceneSpec, seed: int, number: int) -> Scene:
    """Scene `number` of those that `seed` makes.

    Args:
        art: all drawings.
        spec: which scenes.
        seed: of the whole set.
        number: 0 or more; each is another scene.

    Raises:
        ValueError: the art has too few things for such scenes.
    """
    rng = random.Random(fold(seed, "scene", spec.split, number))
    kinds = [kind for kind in KINDS if spec.weights.get(kind, 0) > 0]
    kind = rng.choices(kinds, [spec.weights[kind] for kind in kinds])[0]
    facts, sprites = _cast(art, kind, spec, rng)
    return _painted(facts, sprites, spec.size, rng)


def _cast(art: Art, kind: Kind, spec: SceneSpec, rng: random.Random) -> tuple[Facts, list[Sprite]]:
    """Choose things, colours and numbers; for a kind with combinations, held-out ones exactly in the held-out split."""
    want = spec.split == "heldout" and kind in ("colour", "count", "two", "position", "two_colours")
    for _ in range(TRIES):
        style = rng.choice(art.styles)
        names = [name for name in art.things if (name, style) in art.sprites]
        found = _draw_facts(art, kind, style, names, rng)
        if found is None:
            continue
        facts, sprites = found
        if any(held_thing(shown.name) for shown in facts.things) or not _stands_out(facts, sprites):
            continue
        if _holds_out(facts) == want:
            if rng.random() < spec.styled and style != OWN:
                facts = _with(facts, style=style)
            return facts, sprites
    raise ValueError(f"art: too few things for scenes of the kind {kind!r}; add drawings, or leave the kind out")


def _holds_out(facts: Facts) -> bool:
    """Whether the scene shows a combination that training never sees."""
    names = [shown.name for shown in facts.things]
    return (
        any(shown.colour is not None and held_colour(shown.name, shown.colour) for shown in facts.things)
        or (facts.count is not None and held_count(facts.count, names[0]))
        or (len(names) == 2 and held_pair(*names))
    )


def _draw_facts(
    art: Art, kind: Kind, style: str, names: Sequence[str], rng: random.Random
) -> tuple[Facts, list[Sprite]] | None:
    """One draw of what a scene of this kind shows, with a drawing for each thing; None: it does not fit, draw again."""
    if kind == "landscape":
        where = rng.choice(list(PLACES))
        return Facts(kind=kind, place=where, night=PLACES[where].at_night and rng.random() < 0.3), []
    many = 2 if kind in ("two", "position", "two_colours") or (kind == "place" and rng.random() < 0.2) else 1
    chosen = [rng.choice(names) for _ in range(many)]
    if len(set(chosen)) < many:
        return None
    coloured = {"colour": 1.0, "two_colours": 1.0, "count": 0.4, "size": 0.4, "ground": 0.3, "place": 0.3}.get(
        kind, 0.0
    )
    if kind == "position" and rng.random() < 0.25:
        coloured = 0.7
    shown, sprites = [], []
    for name in chosen:
        colour = rng.choice(list(COLOURS)) if rng.random() < coloured else None
        choices = art.colourable(name, style) if colour else art.sprites[name, style]
        if not choices or (colour and COLOURS.keys() & set(name.split())):  # no "red black cat"
            return None
        size = rng.choice(list(SIDES)) if kind == "size" else None
        shown.append(Shown(name=name, colour=colour, size=size))
        sprites.append(rng.choice(choices))
    facts = Facts(kind=kind, things=tuple(shown))
    if kind == "count":
        if art.things[chosen[0]].plural is None:
            return None
        facts = _with(facts, count=rng.choices([1, 2, 3, 4, 5], [1, 3, 3, 3, 2])[0])
    if many == 2:
        facts = _with(facts, relation=_relation(kind, rng))
    return _set_in(facts, kind, rng), sprites


def _relation(kind: Kind, rng: random.Random) -> str | None:
    if kind == "position":
        return rng.choice(["left", "above"])
    if kind == "two_colours":
        return rng.choice([None, None, None, "left", "above"])
    return rng.choice([None, None, None, "beside"])


def _set_in(facts: Facts, kind: Kind, rng: random.Random) -> Facts:
    """The ground: a place, or a colour unlike that of the things, which is said or not."""
    if kind == "place":
        where = rng.choice(list(PLACES))
        return _with(facts, place=where, night=PLACES[where].at_night and rng.random() < 0.25)
    taken = {shown.colour for shown in facts.things}
    said = kind == "ground" or (kind != "one" and rng.random() < 0.5)
    free = [colour for colour in COLOURS if colour not in taken]
    ground = rng.choice(free)
    if not said and "white" in free and rng.random() < 0.5:
        ground = "white"
    return _with(facts, behind=ground, ground=ground if said else None)


def _stands_out(facts: Facts, sprites: Sequence[Sprite]) -> bool:
    """Whether every thing can be told from a plain ground."""
    if facts.behind is None:
        return True
    ground = np.array(GROUNDS[facts.behind], float)
    for shown, sprite in zip(facts.things, sprites, strict=True):
        if shown.colour is None and np.linalg.norm(sprite.mean - ground) < CONTRAST:
            return False
    return True


def _with(facts: Facts, **changes: Any) -> Facts:
    return Facts(**{name: getattr(facts, name) for name in Facts.__dataclass_fields__} | changes)


def _painted(facts: Facts, sprites: Sequence[Sprite], size: int, rng: random.Random) -> Scene:
    """Paint the ground and put the things on it."""
    if facts.place is not None:
        canvas = place(facts.place, size, rng, night=facts.night)
        floor = PLACES[facts.place].floor
    else:
        canvas, floor = plain(facts.behind or "white", size, rng), None
    spots = _spots(facts, floor, rng)
    shadow = rng.random() < (0.6 if floor is not None else 0.3)
    copies = [0] * len(spots) if facts.count is not None else list(range(len(spots)))
    mirrored = [rng.random() < 0.5 for _ in sprites]
    boxes = []
    painted = [_coloured(sprite, shown, rng) for sprite, shown in zip(sprites, facts.things, strict=True)]
    for which, (x, y, side) in zip(copies, spots, strict=True):
        scale = size / 128
        cutout = _fitted(painted[which], side * scale, mirrored[which])
        boxes.append(_put(canvas, cutout, x * scale, y * scale, shadow=shadow, stands=floor is not None))
    return Scene(picture=canvas, facts=_with(facts, boxes=tuple(boxes)))


def _coloured(sprite: Sprite, shown: Shown, rng: random.Random) -> np.ndarray:
    if shown.colour is None:
        return sprite.rgba
    return recolour(sprite.rgba, sprite.hue, shade(COLOURS[shown.colour], rng, 7.0))


def _fitted(rgba: np.ndarray, side: float, mirror: bool) -> Image.Image:
    """The drawing with its longer side of `side` pixels."""
    picture = Image.fromarray(rgba)
    scale = side / max(picture.size)
    picture = picture.resize([max(1, round(length * scale)) for length in picture.size], Image.Resampling.LANCZOS)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else picture


def _put(
    canvas: Image.Image, cutout: Image.Image, x: float, y: float, *, shadow: bool, stands: bool
) -> tuple[int, int, int, int]:
    """Paste a cut-out, centred on (x, y) or standing on y, inside the canvas; returns its box."""
    width, height = cutout.size
    side = canvas.width
    left = round(min(max(x - width / 2, 0), max(0, side - width)))
    top = round(min(max(y - height if stands else y - height / 2, 0), max(0, side - height)))
    if shadow:
        layer = Image.new("L", canvas.size)
        foot = top + height
        box = (left + width * 0.1, foot - height * 0.06, left + width * 0.9, foot + height * 0.06)
        ImageDraw.Draw(layer).ellipse(box, fill=80)
        canvas.paste((0, 0, 0), (0, 0), layer.filter(ImageFilter.GaussianBlur(side / 50)))
    canvas.paste(cutout, (left, top), cutout)
    return left, top, left + width, top + height


def _spots(facts: Facts, floor: float | None, rng: random.Random) -> list[tuple[float, float, float]]:
    """(x, y, longer side) of each thing, in pixels of a scene of 128. On a floor, y is where it stands."""
    if not facts.things:
        return []
    if len(facts.things) == 2:
        return _two_spots(facts.relation, floor, rng)
    if facts.count is not None:
        return _many_spots(facts.count, rng)
    size = facts.things[0].size
    side = rng.uniform(*SIDES[size]) if size else rng.uniform(*ONE)
    if floor is not None:
        side = min(side, 84.0)
        return [(64 + rng.uniform(-26, 26), 128 * (floor + rng.uniform(0.0, 0.08)), side)]
    room = max(2.0, (124 - side) / 2 * 0.8)
    return [(64 + rng.uniform(-room, room), 64 + rng.uniform(-room, room), side)]


def _two_spots(relation: str | None, floor: float | None, rng: random.Random) -> list[tuple[float, float, float]]:
    sides = [rng.uniform(*TWO) for _ in range(2)]
    if floor is not None:
        y = 128 * (floor + 0.03)
        spots = [(33 + rng.uniform(-3, 3), y, sides[0]), (95 + rng.uniform(-3, 3), y, sides[1])]
    elif relation == "above" or (relation is None and rng.random() < 0.3):
        x, tilt = 64 + rng.uniform(-14, 14), rng.uniform(-10, 10)
        spots = [(x + tilt, 33 + rng.uniform(-3, 3), sides[0]), (x - tilt, 95 + rng.uniform(-3, 3), sides[1])]
    else:
        y, tilt = 64 + rng.uniform(-14, 14), rng.uniform(-10, 10)
        spots = [(33 + rng.uniform(-3, 3), y + tilt, sides[0]), (95 + rng.uniform(-3, 3), y - tilt, sides[1])]
    return spots if relation in ("left", "above") or rng.random() < 0.5 else [
        (spots[1][0], spots[1][1], sides[0]), (spots[0][0], spots[0][1], sides[1])
    ]  # fmt: skip


def _many_spots(count: int, rng: random.Random) -> list[tuple[float, float, float]]:
    side = rng.uniform(*MANY[count])
    places: list[list[tuple[int, int]]] = {
        1: [[(64, 64)]],
        2: [[(34, 64), (94, 64)], [(34, 64), (94, 64)], [(64, 34), (64, 94)]],
        3: [[(64, 36), (36, 92), (92, 92)], [(36, 36), (92, 36), (64, 92)], [(23, 64), (64, 64), (105, 64)]],
        4: [[(36, 36), (92, 36), (36, 92), (92, 92)]],
        5: [
            [(28, 28), (100, 28), (64, 64), (28, 100), (100, 100)],
            [(24, 40), (64, 40), (104, 40), (44, 90), (84, 90)],
        ],
    }[count]
    chosen = rng.choice(places)
    if count == 3 and chosen[0][1] == chosen[1][1] == chosen[2][1]:
        side = min(side, 40.0)
    return [(x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), side) for x, y in chosen]
