"""Many views of one picture: a caption in varied words and a plain background, drawn from a seed when it is loaded."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Colour = tuple[int, int, int]  # sRGB, 0 to 255

WHITE: Colour = (255, 255, 255)
BACKGROUNDS: dict[str, Colour] = {
    "white": WHITE,
    "black": (24, 24, 28),
    "grey": (160, 163, 168),
    "red": (214, 72, 68),
    "yellow": (248, 211, 92),
    "green": (96, 176, 112),
    "blue": (88, 144, 216),
    "pink": (245, 176, 200),
}
NAMED_GROUNDS = [name for name in BACKGROUNDS if name != "white"]
WHITE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to show and name a picture.

    Attributes:
        caption: what the text encoder reads.
        background: colour behind the transparent parts.
        mirror: whether left and right are exchanged.
    """

    caption: str
    background: Colour
    mirror: bool = False


def has_views(row: Mapping[str, Any]) -> bool:
    """Whether a row of metadata has the columns that views are drawn from: `name` and `style`."""
    return bool(row.get("name")) and bool(row.get("style"))


def plain_view(row: Mapping[str, Any]) -> View:
    """The row's own caption, on white."""
    return View(caption=row["caption"], background=WHITE)


def draw_view(row: Mapping[str, Any], seed: int) -> View:
    """A caption and background for one showing of a picture, a pure function of `row` and `seed`.

    Captions, for name "rocket", style "flat twemoji" and keywords "space", "launch", ...:

        60 %  "rocket, flat twemoji"
        15 %  "a rocket" or "rocket": no style, so that prompts without one work
        10 %  "launch, space, flat twemoji": 2 or 3 keywords (the first form where the row has fewer than 2)
        15 %  other orders: "flat twemoji of a rocket", "flat twemoji, rocket", "a rocket, flat twemoji"

    The background is white half of the time and then never named, else one of seven colours and always named:
    "rocket, flat twemoji, on a blue background". So a prompt that names no colour gets white.

    Args:
        row: one row of metadata. Columns: `name`; `style_words` (else `style`), how captions name the style;
            `keywords` (optional), a list of words or one comma-separated string. A row without `name` and `style`
            has one view, its own caption on white.
        seed: from `ldm.core.rng.fold`; every showing of a picture has its own.
    """
    if not has_views(row):
        return plain_view(row)
    rng = random.Random(seed)
    caption = _draw_caption(row["name"], row.get("style_words") or row["style"], keywords_of(row), rng)
    if rng.random() < WHITE_SHARE:
        return View(caption=caption, background=WHITE)
    colour = rng.choice(NAMED_GROUNDS)
    return View(caption=f"{caption}, {ground(colour)}", background=BACKGROUNDS[colour])


def ground(colour: str) -> str:
    """How captions say what a picture stands on."""
    return f"on a {colour} background"


def keywords_of(row: Mapping[str, Any]) -> list[str]:
    """The row's keywords; a table (CSV) holds them as one comma-separated string."""
    words = row.get("keywords") or []
    return [word.strip() for word in words.split(",") if word.strip()] if isinstance(words, str) else list(words)


def with_article(name: str) -> str:
    """The name with "a" or "an" before it, or alone where its head word looks like a plural ("grapes")."""
    head = name.split(" with ")[0].split(" of ")[0].split(" on ")[0].split()[-1]
    if head.endswith("s") and not head.endswith(("ss", "us", "is")):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def compose(rgba: UInt8[Tensor, "h w c"] | np.ndarray, background: Colour) -> Float[Tensor, "3 h w"]:
    """Lay a picture over a plain colour.

        image = alpha rgb + (1 - alpha) background, in sRGB values as browsers do, then scaled to [-1, 1]

    Args:
        rgba: (h, w, 4) uint8 with straight alpha, or (h, w, 3), which has nothing to see through.
        background: sRGB colour, 0 to 255.

    Returns:
        Float32 image (3, h, w) in [-1, 1].

    Raises:
        ValueError: not (h, w, 3) or (h, w, 4) of uint8.
    """
    pixels = torch.as_tensor(rgba)
    if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4) or pixels.dtype != torch.uint8:
        found = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise ValueError(f"rgba: expected uint8 of shape (h, w, 4) or (h, w, 3), found {found}")
    planes = pixels.permute(2, 0, 1).float()
    colour = planes[:3]
    if planes.shape[0] == 4:
        alpha = planes[3:] / 255
        behind = torch.tensor(background, dtype=torch.float32).view(3, 1, 1)
        colour = alpha * colour + (1 - alpha) * behind
    return colour / 127.5 - 1


def _draw_caption(name: str, style: str, keywords: Sequence[str], rng: random.Random) -> str:
    roll = rng.random()
    if 0.60 <= roll < 0.75:
        return rng.choice([with_article(name), name])
    if 0.75 <= roll < 0.85 and len(keywords) >= 2:
        count = min(rng.choice([2, 3]), len(keywords))
        return ", ".join([*rng.sample(keywords, count), style])
    if roll >= 0.85:
        return rng.choice([f"{style} of {with_article(name)}", f"{style}, {name}", f"{with_article(name)}, {style}"])
    return f"{name}, {style}"
