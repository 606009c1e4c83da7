"""Which combinations of words training never sees: a function of the names alone, so that nobody can leak one."""

from ldm.core.rng import fold

THINGS = 0.02  # share of the things that training never sees
COLOURS = 0.15  # share of the (thing, colour) pairs
COUNTS = 0.15  # share of the (count, thing) cells
PAIRS = 0.15  # share of the unordered (thing, thing) pairs

_SALT = "scenes, first split"


def held_thing(thing: str) -> bool:
    """Whether a thing is held out altogether."""
    return _below(THINGS, "thing", thing)


def held_colour(thing: str, colour: str) -> bool:
    """Whether a thing is never shown in this colour in training."""
    return _below(COLOURS, "colour", thing, colour)


def held_count(count: int, thing: str) -> bool:
    """Whether training never shows this many of a thing. One of each is always shown."""
    return count > 1 and _below(COUNTS, "count", str(count), thing)


def held_pair(first: str, second: str) -> bool:
    """Whether training never shows these two things together, in any order."""
    return _below(PAIRS, "pair", *sorted((first, second)))


def _below(share: float, *names: str) -> bool:
    return fold(0, _SALT, *names) / 2**63 < share
