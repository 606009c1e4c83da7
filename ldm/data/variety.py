"""Showings of a picture that differ from the last: mirrored, with a caption that stays true, and tags in any order."""

import random
import re
from dataclasses import dataclass, replace
from typing import Literal

from ldm.core.rng import fold
from ldm.data.captions import View

Flip = Literal["never", "swap", "unless_named"]
SIDES = {"left": "right", "right": "left"}
_SIDE = re.compile(r"(?<![a-z])(left|right)(?=$|[^a-z]|most\b|ward|wards\b|hand)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Variety:
    """What may differ from showing to showing.

    Attributes:
        flip: whether half of the showings are mirrored. "never"; "swap": and their captions say "right" for "left";
            "unless_named": but those whose caption names a side. Writing and faces of clocks are mirrored too: leave
            it off where they matter.
        shuffle_tags: whether the parts of a caption between commas change their order, but for the first.
    """

    flip: Flip = "never"
    shuffle_tags: bool = False

    def of(self, view: View, seed: int) -> View:
        """One showing, a pure function of `view` and `seed`."""
        if self == Variety():
            return view
        rng = random.Random(fold(seed, "variety"))
        mirror = rng.random() < 0.5
        if self.shuffle_tags:
            view = replace(view, caption=shuffled(view.caption, rng))
        if not mirror or self.flip == "never" or (self.flip == "unless_named" and names_a_side(view.caption)):
            return view
        return replace(view, caption=mirrored(view.caption), mirror=True)


def names_a_side(caption: str) -> bool:
    """Whether a caption says left or right."""
    return _SIDE.search(caption) is not None


def mirrored(caption: str) -> str:
    """The caption of the mirrored picture: left for right and right for left, in the same case.

    "Left", "leftmost", "left-handed" and "leftwards" are sides; "bright", "leftover" and "copyright" are not.
    """
    return _SIDE.sub(lambda found: _in_case_of(found[0], SIDES[found[0].lower()]), caption)


def shuffled(caption: str, rng: random.Random) -> str:
    """The parts between commas in another order; the first, which names the thing, stays."""
    first, *others = [part.strip() for part in caption.split(",")]
    rng.shuffle(others)
    return ", ".join([first, *others])


def _in_case_of(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
