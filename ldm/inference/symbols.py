"""Emoji in a prompt as the words that they stand for, and scripts that an English text encoder does not read."""

import unicodedata
from collections.abc import Callable

TONES = range(0x1F3FB, 0x1F400)  # skin tones, which follow what they colour
JOINERS = "\u200d\ufe0e\ufe0f"  # say how emoji are put together and shown
FLAGS = range(0x1F1E6, 0x1F200)  # letters that only together mean something


def spelled_out(prompt: str, knows: Callable[[str], bool]) -> str:
    """`prompt` with its emoji as their Unicode names, but for those that `knows` can be read: "🍎" is "red apple"."""
    out, after_name = "", False
    for character in prompt:
        if after_name and (character in JOINERS or ord(character) in TONES):
            continue
        name = unicodedata.name(character, "").lower()
        symbol = unicodedata.category(character) == "So" and ord(character) not in FLAGS
        if symbol and name and not knows(character):
            out += " " * (out[-1:].isalnum()) + name
            after_name = True
        else:
            out += " " * (after_name and character.isalnum()) + character
            after_name = False
    return out


def foreign(text: str) -> bool:
    """Whether a text has letters or symbols of its own, but no digit and no letter of the Latin alphabet."""
    if any(c.isdigit() or "LATIN" in unicodedata.name(c, "") for c in text):
        return False
    return any(unicodedata.category(c)[0] in "LS" and not c.isascii() for c in text)
