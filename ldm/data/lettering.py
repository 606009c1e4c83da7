"""Captions drawn on a picture in whatever script they are, as far as this machine has fonts for it."""

import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

from PIL import ImageFont

# Names under which Linux, Windows and macOS know fonts that have many scripts; each is tried, none is needed.
FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansThai-Regular.ttf", "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf", "FreeSans.ttf", "unifont.ttf", "arialuni.ttf", "arial.ttf", "msyh.ttc", "malgun.ttf",
    "Nirmala.ttf", "seguisym.ttf", "Arial Unicode.ttf", "Hiragino Sans GB.ttc",
)  # fmt: skip
MISSING = "\U0010fffd"  # a character that no font has


def font_for(text: str, size: int) -> Any | None:
    """The first font, Pillow's own before all, with most letters of `text`; None: all lack half of them or more."""
    letters = {c for c in text if not c.isspace() and unicodedata.category(c)[0] not in "CM"}
    best, most = None, len(letters) / 2
    for font in _fonts(size):
        found = len(letters) if not letters else sum(_has(font, c) for c in letters)
        if found == len(letters):
            return font
        if found > most:
            best, most = font, found
    return best


def _fonts(size: int) -> Iterator[Any]:
    yield _own(size)
    for name in FONTS:
        font = _named(name, size)
        if font is not None:
            yield font


@cache
def _own(size: int) -> Any:
    return ImageFont.load_default(size)


@cache
def _named(name: str, size: int) -> Any | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has(font: Any, character: str) -> bool:
    return bytes(font.getmask(character)) != bytes(font.getmask(MISSING))
