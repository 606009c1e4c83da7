"""Grounds of scenes: plain colours, soft gradients, and places that are painted by rule (beach, snow, city, ...)."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ldm.data.scenes.colours import GROUNDS, RGB, shade

FINE = 2  # places are painted at twice the size and reduced, so that edges are smooth


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place that scenes can be set in.

    Attributes:
        paint: (drawing, side in pixels, random stream, whether it is night) -> nothing.
        phrases: how captions say that a thing is there: "on a beach".
        alone: how captions name a picture of the place itself: "a beach".
        floor: where things stand, as a share of the height from the top; None: they float anywhere.
        at_night: whether it can be shown at night.
    """

    paint: Callable[[ImageDraw.ImageDraw, int, random.Random, bool], None]
    phrases: tuple[str, ...]
    alone: tuple[str, ...]
    floor: float | None = 0.82
    at_night: bool = True


def plain(colour: str, side: int, rng: random.Random) -> Image.Image:
    """A square of one named colour, RGB: flat, or a little lighter on one end."""
    base = GROUNDS[colour] if colour in ("white", "black") else shade(GROUNDS[colour], rng, 5.0)
    picture = Image.new("RGB", (side, side), base)
    if rng.random() < 0.3:
        reach = rng.uniform(0.04, 0.12) * rng.choice([-1, 1])
        ramp = np.linspace(1 + reach, 1 - reach, side)[:, None, None] * np.array(base, float)
        picture = Image.fromarray(np.broadcast_to(ramp.clip(0, 255), (side, side, 3)).astype(np.uint8))
    return picture


def place(name: str, side: int, rng: random.Random, *, night: bool = False) -> Image.Image:
    """A picture of a place, RGB (side, side)."""
    fine = side * FINE
    picture = Image.new("RGB", (fine, fine))
    PLACES[name].paint(ImageDraw.Draw(picture), fine, rng, night)
    return picture.resize((side, side), Image.Resampling.BOX)


def _sky(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool, down_to: float = 1.0) -> None:
    """Day: blue, paler towards the horizon, with clouds. Night: dark blue with stars, often a moon."""
    top, low = ((16, 22, 58), (44, 50, 104)) if night else ((104, 172, 238), (190, 224, 250))
    top, low = shade(top, rng, 6.0), shade(low, rng, 6.0)
    _ramp(draw, 0, math.ceil(side * down_to), side, top, low)
    if night:
        for _ in range(rng.randint(14, 30)):
            x, y, r = rng.random() * side, rng.random() * side * down_to * 0.9, rng.choice([1, 1, 2]) * side / 256
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 246, 214))
        if rng.random() < 0.6:
            x, y, r = rng.uniform(0.12, 0.88) * side, rng.uniform(0.1, 0.22) * side, rng.uniform(0.05, 0.08) * side
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 240, 190))
        return
    for _ in range(rng.randint(0, 3)):
        x, y, r = rng.random() * side, rng.uniform(0.08, 0.3) * side, rng.uniform(0.03, 0.06) * side
        for shift, size in ((-1.3, 0.7), (0, 1.0), (1.3, 0.75)):
            draw.ellipse((x + shift * r - size * r, y - size * r, x + shift * r + size * r, y + size * r), fill="white")


def _ramp(draw: ImageDraw.ImageDraw, first: int, last: int, side: int, top: RGB, low: RGB) -> None:
    """Rows `first` to `last` from one colour to another."""
    for y in range(first, last):
        share = (y - first) / max(1, last - first - 1)
        draw.line((0, y, side, y), fill=tuple(round(a + share * (b - a)) for a, b in zip(top, low, strict=True)))


def _land(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, top: float, colour: RGB, swell: float) -> None:
    """Land below a gently waving line at `top` of the height."""
    phase, waves = rng.random() * 2 * math.pi, rng.uniform(0.6, 1.4)
    points = [
        (x, side * (top + swell * math.sin(phase + waves * 2 * math.pi * x / side)))
        for x in range(0, side + 1, max(1, side // 32))
    ]
    draw.polygon([*points, (side, side), (0, side)], fill=shade(colour, rng, 6.0))


def _dim(colour: RGB, night: bool) -> RGB:
    """A colour as it looks at night."""
    red, green, blue = colour
    return (round(red * 0.36), round(green * 0.4), round(blue * 0.5 + 14)) if night else colour


def _grass(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night, 0.75)
    _land(draw, side, rng, rng.uniform(0.58, 0.66), _dim((110, 186, 84), night), 0.02)
    for _ in range(rng.randint(10, 24)):
        x, y = rng.random() * side, rng.uniform(0.7, 0.98) * side
        draw.line((x, y, x + side / 128, y - side / 40), fill=_dim((70, 140, 56), night), width=max(1, side // 128))


def _hill(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night)
    middle, wide = rng.uniform(0.42, 0.58) * side, rng.uniform(0.75, 1.0) * side
    box = (middle - wide, 0.74 * side, middle + wide, 1.9 * side)
    draw.ellipse(box, fill=shade(_dim((98, 172, 80), night), rng, 6.0))


def _mountains(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night, 0.8)
    _peaks(draw, side, rng, night, 0.72)
    _land(draw, side, rng, 0.72, _dim((104, 164, 92), night), 0.012)


def _peaks(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool, foot: float) -> None:
    """Two or three mountains with snow on top, standing at `foot` of the height."""
    for _ in range(rng.randint(2, 3)):
        x, height, wide = rng.random() * side, rng.uniform(0.3, 0.48) * side, rng.uniform(0.28, 0.42) * side
        foot_y, top_y = foot * side + 2, foot * side - height
        stone = shade(_dim((122, 128, 146), night), rng, 8.0)
        draw.polygon([(x - wide, foot_y), (x, top_y), (x + wide, foot_y)], fill=stone)
        cap = 0.3
        snow = [(x - wide * cap, top_y + height * cap), (x, top_y), (x + wide * cap, top_y + height * cap)]
        draw.polygon([*snow, (x, top_y + height * cap * 0.75)], fill=_dim((246, 248, 252), night))


def _lake(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night, 0.7)
    _peaks(draw, side, rng, night, 0.6)
    _land(draw, side, rng, 0.58, _dim((92, 152, 84), night), 0.01)
    water = shade(_dim((78, 152, 206), night), rng, 6.0)
    draw.ellipse((-0.2 * side, 0.64 * side, 1.2 * side, 1.5 * side), fill=water)
    _glints(draw, side, rng, 0.7, _dim((150, 204, 236), night))


def _glints(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, top: float, colour: RGB) -> None:
    """Short light strokes on water below `top` of the height."""
    for _ in range(rng.randint(6, 14)):
        x, y, w = rng.random() * side, rng.uniform(top, 0.97) * side, rng.uniform(0.04, 0.1) * side
        draw.line((x, y, x + w, y), fill=colour, width=max(1, side // 100))


def _sea(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night, 0.6)
    top = math.floor(rng.uniform(0.5, 0.58) * side)
    deep, near = _dim((40, 112, 190), night), _dim((74, 158, 220), night)
    _ramp(draw, top, side, side, near, deep)
    _glints(draw, side, rng, 0.62, _dim((150, 206, 242), night))


def _beach(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night, 0.5)
    top = math.floor(rng.uniform(0.4, 0.48) * side)
    _ramp(draw, top, side, side, _dim((56, 140, 208), night), _dim((96, 184, 224), night))
    _land(draw, side, rng, rng.uniform(0.62, 0.68), _dim((240, 216, 156), night), 0.015)


def _snow(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    top, low = ((22, 28, 66), (66, 76, 126)) if night else ((170, 198, 226), (216, 230, 242))
    _ramp(draw, 0, side, side, shade(top, rng, 5.0), shade(low, rng, 5.0))
    _land(draw, side, rng, rng.uniform(0.6, 0.68), (196, 206, 230) if night else (248, 250, 253), 0.03)
    for _ in range(rng.randint(16, 34)):
        x, y, r = rng.random() * side, rng.random() * side, rng.uniform(0.006, 0.012) * side
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255))


def _desert(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    if night:
        _sky(draw, side, rng, night, 0.75)
    else:
        _ramp(draw, 0, side, side, shade((248, 214, 150), rng, 5.0), (252, 234, 196))
        x, y, r = rng.uniform(0.15, 0.85) * side, rng.uniform(0.12, 0.25) * side, rng.uniform(0.06, 0.09) * side
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 244, 206))
    _land(draw, side, rng, rng.uniform(0.52, 0.58), _dim((226, 170, 98), night), 0.05)
    _land(draw, side, rng, rng.uniform(0.64, 0.7), _dim((236, 186, 114), night), 0.04)


def _city(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night, 0.85)
    x = -rng.random() * 0.1
    while x < 1:
        wide, top = rng.uniform(0.1, 0.18), rng.uniform(0.2, 0.5)
        wall = shade(_dim(rng.choice([(150, 160, 178), (178, 166, 158), (128, 142, 166)]), night), rng, 8.0)
        draw.rectangle((x * side, top * side, (x + wide) * side, side), fill=wall)
        lit: RGB = (252, 222, 120) if night else (214, 230, 244)
        rows, columns = int((0.8 - top) / 0.07), max(1, int(wide / 0.05))
        for row in range(rows):
            for column in range(columns):
                if rng.random() < 0.75:
                    left, up = x + (column + 0.3) * wide / columns, top + 0.03 + row * 0.07
                    box = (left * side, up * side, (left + 0.022) * side, (up + 0.032) * side)
                    draw.rectangle(box, fill=lit)
        x += wide + rng.uniform(0, 0.03)
    draw.rectangle((0, 0.8 * side, side, side), fill=_dim((104, 106, 114), night))
    for i in range(4):
        left = (0.05 + 0.26 * i) * side
        draw.rectangle((left, 0.9 * side, left + 0.12 * side, 0.915 * side), fill=_dim((236, 230, 206), night))


def _room(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    wall = shade(rng.choice([(244, 226, 196), (214, 226, 216), (208, 220, 236), (240, 212, 206)]), rng, 5.0)
    draw.rectangle((0, 0, side, side), fill=wall)
    floor = rng.uniform(0.66, 0.72) * side
    draw.rectangle((0, floor, side, side), fill=shade((176, 128, 84), rng, 8.0))
    draw.rectangle((0, floor - 0.02 * side, side, floor), fill=(250, 248, 242))
    for i in range(1, 4):
        y = floor + (side - floor) * i / 4
        draw.line((0, y, side, y), fill=(150, 104, 66), width=max(1, side // 128))
    x, y, w = rng.uniform(0.06, 0.68) * side, 0.1 * side, 0.26 * side
    draw.rectangle((x - 4, y - 4, x + w + 4, y + w + 4), fill=(252, 252, 250))
    draw.rectangle((x, y, x + w, y + w), fill=(30, 38, 80) if night else (172, 214, 246))
    for line in ((x + w / 2, y, x + w / 2, y + w), (x, y + w / 2, x + w, y + w / 2)):
        draw.line(line, fill=(252, 252, 250), width=max(2, side // 64))


def _forest(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night, 0.8)
    _land(draw, side, rng, 0.7, _dim((84, 140, 70), night), 0.015)
    for i in range(9):
        x, foot = (i / 8 + rng.uniform(-0.05, 0.05)) * side, rng.uniform(0.68, 0.76) * side
        height, wide = rng.uniform(0.34, 0.52) * side, rng.uniform(0.08, 0.12) * side
        trunk = (x - 0.012 * side, foot - 0.05 * side, x + 0.012 * side, foot)
        draw.rectangle(trunk, fill=_dim((110, 76, 48), night))
        leaves = shade(_dim((44, 116, 66), night), rng, 10.0)
        draw.polygon([(x - wide, foot - 0.04 * side), (x, foot - height), (x + wide, foot - 0.04 * side)], fill=leaves)


def _clouds(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _sky(draw, side, rng, night)


def _space(draw: ImageDraw.ImageDraw, side: int, rng: random.Random, night: bool) -> None:
    _ramp(draw, 0, side, side, shade((14, 12, 34), rng, 4.0), shade((36, 24, 66), rng, 5.0))
    for _ in range(rng.randint(30, 60)):
        x, y, r = rng.random() * side, rng.random() * side, rng.choice([1, 1, 1, 2]) * side / 256
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice([(255, 255, 255), (255, 240, 200), (200, 220, 255)]))
    if rng.random() < 0.5:
        x, y, r = rng.uniform(0.1, 0.9) * side, rng.uniform(0.1, 0.9) * side, rng.uniform(0.05, 0.1) * side
        draw.ellipse((x - r, y - r, x + r, y + r), fill=shade(rng.choice(list(GROUNDS.values())[3:9]), rng, 10.0))


PLACES: dict[str, Place] = {
    "grass": Place(
        paint=_grass,
        phrases=("on the grass", "on grass", "in a field", "in a meadow", "on a green meadow", "in the park"),
        alone=("a green meadow", "a field of grass", "a meadow"),
    ),
    "hill": Place(paint=_hill, phrases=("on a hill", "on a green hill"), alone=("a hill", "a green hill"), floor=0.76),
    "mountains": Place(
        paint=_mountains,
        phrases=("in the mountains", "in front of mountains"),
        alone=("mountains", "a mountain landscape", "snowy mountains"),
    ),
    "lake": Place(
        paint=_lake,
        phrases=("on a lake", "in a mountain lake", "on a mountain lake"),
        alone=("a mountain lake", "a lake", "a lake in the mountains"),
        floor=0.86,
    ),
    "sea": Place(
        paint=_sea,
        phrases=("in the sea", "on the sea", "on the water", "on the ocean", "in the ocean"),
        alone=("the sea", "the ocean", "the open sea"),
        floor=0.8,
    ),
    "beach": Place(
        paint=_beach, phrases=("on a beach", "on the beach", "at the beach"), alone=("a beach", "a sandy beach")
    ),
    "snow": Place(
        paint=_snow,
        phrases=("in the snow", "on snow", "in winter"),
        alone=("a snowy landscape", "snow", "a winter day"),
    ),
    "desert": Place(
        paint=_desert, phrases=("in the desert", "in a desert", "on sand"), alone=("a desert", "the desert")
    ),
    "city": Place(
        paint=_city,
        phrases=("in a city", "in the city", "on a street", "in front of a city"),
        alone=("a city", "a street in a city", "a skyline"),
        floor=0.9,
    ),
    "room": Place(
        paint=_room, phrases=("in a room", "in a house", "on the floor", "at home"), alone=("a room", "an empty room")
    ),
    "forest": Place(
        paint=_forest,
        phrases=("in a forest", "in the forest", "in the woods"),
        alone=("a forest", "the woods"),
        floor=0.86,
    ),
    "sky": Place(paint=_clouds, phrases=("in the sky", "in the clouds"), alone=("the sky",), floor=None),
    "space": Place(
        paint=_space,
        phrases=("in space", "in outer space", "among the stars"),
        alone=("outer space", "space with stars"),
        floor=None,
        at_night=False,
    ),
}
NIGHT = ("at night", "in the night", "under the stars", "in the dark")
