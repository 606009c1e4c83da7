"""A font is taken only where it has every letter."""

import pytest
from PIL import ImageFont

from ldm.data import lettering


def test_the_first_font_with_all_letters_is_taken(monkeypatch):
    own = lettering.font_for("plain words", 10)
    assert own is not None and own.getname() == ImageFont.load_default(10).getname()
    assert lettering.font_for("\x07bell\u200d", 10) is own  # what is not shown needs no sign
    asked = []
    monkeypatch.setattr(lettering, "_named", lambda name, size: asked.append(name))
    assert lettering.font_for("\u732b", 10) is None and asked == list(lettering.FONTS)
    assert lettering.font_for("caf\u00e9", 10) is own  # most of it


@pytest.mark.parametrize("letters", ["\u043a\u043e\u0442", "\u732b", "\U0001f408"])
def test_boxes_are_no_letters(letters):
    font = lettering.font_for(letters, 10)
    assert font is None or font.getname() != ImageFont.load_default(10).getname()
