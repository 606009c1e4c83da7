"""The grammar of prompts: which words count for more, and which for less."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

STEP = 1.1  # what one bracket multiplies or divides by
HEAVIEST = 100.0
PIECE = re.compile(r"\\([()\[\]\\])|([()\[\]])|([^()\[\]\\]+|\\)")  # an escaped mark, a mark, plain text
NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
CLOSES = {")": "(", "]": "["}


@dataclass(frozen=True)
class Prompt:
    """A text whose parts have weights.

    Attributes:
        parts: (text, weight) in order, none of them empty, neighbours of different weights.
    """

    parts: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return "".join(text for text, _ in self.parts)

    def __getitem__(self, span: slice) -> "Prompt":
        """A stretch of the text with its weights."""
        letters = [(letter, weight) for text, weight in self.parts for letter in text]
        return joined(letters[span])

    @property
    def plain(self) -> bool:
        """Whether every word counts the same: 1."""
        return all(weight == 1 for _, weight in self.parts)

    def words(self) -> Iterator[tuple[str, float]]:
        """The words with their weights; a word of several weights comes in pieces."""
        for text, weight in self.parts:
            for word in text.split():
                yield word, weight


def joined(parts: list[tuple[str, float]]) -> Prompt:
    """The parts in order, neighbours of one weight made one."""
    runs = groupby((part for part in parts if part[0]), key=lambda part: part[1])
    return Prompt(tuple(("".join(text for text, _ in run), weight) for weight, run in runs))


def parse(text: str) -> Prompt:
    r"""Read the brackets of a prompt, in the sense that is common among image programs:

    - `(word)` counts 1.1 times as much, `((word))` 1.21 times, and so on; `[word]` counts 1 / 1.1 times as much;
    - `(word:1.3)` counts 1.3 times as much; in further brackets the factors multiply;
    - `\(`, `\)`, `\[`, `\]` and `\\` are the signs themselves, and so is a bracket that has no partner.

    A text without brackets and backslashes is one part of weight 1, as it is.

    Raises:
        ValueError: a word counts more than 100 times.
    """
    pieces = [found.groups() for found in PIECE.finditer(text)]
    partner = _partners([mark for _, mark, _ in pieces])
    factors, parts = [1.0], []
    for i, (escaped, mark, plain) in enumerate(pieces):
        if i not in partner:
            number = NUMBER.search(plain) if plain and i + 1 in partner and pieces[i + 1][1] == ")" else None
            parts.append((plain[: number.start()] if number else escaped or mark or plain, factors[-1]))
        elif mark in CLOSES:
            factors.pop()
        else:
            factors.append(factors[-1] * _factor(mark, pieces[partner[i] - 1][2]))
            if abs(factors[-1]) > HEAVIEST:
                raise ValueError(
                    f"prompt: brackets make a word count {factors[-1]:.3g} times; {HEAVIEST:g} is the most"
                )
    return joined(parts)


def as_written(text: str) -> str:
    """A prompt that is read as `text` is, whatever brackets it has: a caption of a data set has no weights."""
    return re.sub(r"([()\[\]\\])", r"\\\1", text)


def _factor(mark: str, before_its_partner: str | None) -> float:
    if mark == "[":
        return 1 / STEP
    number = NUMBER.search(before_its_partner or "")
    return float(number[1]) if number else STEP


def _partners(marks: list[str | None]) -> dict[int, int]:
    """Which mark closes which: index to index, both ways; marks without a partner are absent."""
    partner: dict[int, int] = {}
    waiting: list[int] = []
    for i, mark in enumerate(marks):
        if mark in CLOSES and waiting and marks[waiting[-1]] == CLOSES[mark]:
            start = waiting.pop()
            partner |= {start: i, i: start}
        elif mark in CLOSES.values():
            waiting.append(i)
    return partner
