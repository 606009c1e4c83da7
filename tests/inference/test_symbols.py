"""Emoji become words for a model that has names and cannot read them."""

import pytest

from ldm.inference.symbols import foreign, spelled_out


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("🍎", "red apple"),
        ("🚀, flat twemoji", "rocket, flat twemoji"),
        ("a 🐶 on 🌊", "a dog face on water wave"),
        ("(🍎:1.3) pie", "(red apple:1.3) pie"),
        ("big🍎pie", "big red apple pie"),
        ("👍🏽", "thumbs up sign"),
        ("❤️", "heavy black heart"),
        ("★ and plain words, é, 苹果", "★ and plain words, é, 苹果"),
        ("🇩🇪", "🇩🇪"),
        ("🏽", "🏽"),
        ("क्\u200dष", "क्\u200dष"),
        ("🐈\u200d⬛", "cat black large square"),
    ],
)
def test_an_emoji_is_its_name(prompt, read):
    assert spelled_out(prompt, "★".__contains__) == read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("تفاحة", True),
        ("苹果", True),
        ("🇩🇪", True),
        ("apfel", False),
        ("7", False),
        ("", False),
        ("(((", False),
        ("…", False),
    ],
)
def test_what_is_not_english_letters_is_foreign(text, expected):
    assert foreign(text) == expected
