"""Renaming by a table of rules: what a layout calls the parts of a network."""

import re
from collections.abc import Sequence
from functools import cache

Rules = Sequence[tuple[str, str]]


def renamed(name: str, rules: Rules) -> str:
    """A dotted name after every rule of a table, in order.

    A rule (old, new) replaces whole parts of the name between dots, wherever they stand; `#` in both is any number,
    kept in order: ("down.#.layers.#", "down_blocks.#.resnets.#").
    """
    for old, new in rules:
        pattern, template = _compiled(old, new)
        name = pattern.sub(template, name)
    return name


@cache
def _compiled(old: str, new: str) -> tuple[re.Pattern[str], str]:
    pattern = re.compile(r"(?<![^.])" + re.escape(old).replace(r"\#", r"(\d+)") + r"(?![^.])")
    numbers = iter(range(1, new.count("#") + 1))
    return pattern, re.sub("#", lambda _: rf"\g<{next(numbers)}>", new)
