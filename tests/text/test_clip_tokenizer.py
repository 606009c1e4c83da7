"""CLIP's tokenizer: open_clip's ids of any text, merges by their definition, and no import that it can do without."""

import string
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import SimpleTokenizer

from ldm.nets.clip_tokenizer import MARKS, ClipTokenizer, byte_letters, cleaned, merged, vocabulary

ROOT = Path(__file__).parents[2]
OURS, THEIRS = ClipTokenizer(), SimpleTokenizer()
WORDS = st.sampled_from(
    [
        *(
            "a red apple",
            "naïve café",
            "Über STRASSE",
            "שלום",
            "世界",
            "ไทย",
            "हिन्दी",
            "😀👩\u200d🚀",
            "ΣΊΣΥΦΟΣ",
            "ſt",
            "ﬁ",
        ),
        *("it's", "WE'LL", "o'\u017f", "x\u2019d", "100%", "½²Ⅷ", "a_b-c", "!!!", "İ", *MARKS, "<END_OF_TEXT>"),
        *("&amp;", "&amp;amp;", "&lt;b&gt;", "&EACUTE;", "&#233;", "&#x1F600;", "&nbsp;", "&notit;", "AT&T", "&"),
        *(" ", "\t", "\r\n", "\u3000", "\u2028", "\x85", "\xa0", "\x00", "\x1b[31m", "\ufeff", "\u200b", "\xad"),
    ]
)
MOJIBAKE = st.text(min_size=1).map(lambda text: text.encode().decode("latin-1"))
SLOPPY = st.sampled_from(["âœ” No problems", "cafÃ©", "â€œquotesâ€\x9d", "ð\x9f\x98\x8a", "ã\x81\x82"])
MANY = settings(max_examples=200)
TEXTS = st.lists(st.one_of(WORDS, MOJIBAKE, SLOPPY, st.text()), max_size=6).map("".join)


def test_the_vocabulary_is_open_clips():
    assert vocabulary().ids == THEIRS.encoder
    assert vocabulary().ranks == THEIRS.bpe_ranks
    assert list(byte_letters().values()) == [piece for piece, number in THEIRS.encoder.items() if number < 256]
    assert (OURS.start, OURS.end, OURS.size) == (49406, 49407, 49408)


@MANY
@given(TEXTS)
def test_every_text_has_open_clips_ids(text):
    assert OURS.encode(text) == THEIRS.encode(text)


@MANY
@given(st.text(string.ascii_letters + string.digits + string.punctuation + " "))
def test_plain_text_has_open_clips_ids(text):
    assert OURS.encode(text) == THEIRS.encode(text)


@MANY
@given(TEXTS)
def test_text_is_cleaned_as_open_clip_does(text):
    assert cleaned(text) == THEIRS.clean_fn(text)


def test_every_97th_sign_of_unicode_has_open_clips_ids():
    for sign in map(chr, range(0, 0x110000, 97)):
        if not "\ud800" <= sign <= "\udfff":
            assert OURS.encode(f"a{sign}b {sign}") == THEIRS.encode(f"a{sign}b {sign}"), f"U+{ord(sign):04X}"


def by_definition(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Sennrich et al. 2016: merge every occurrence of the pair learned first, and look again."""
    while found := [pair for pair in pairwise(pieces) if pair in ranks]:
        first, i, joined = min(found, key=ranks.__getitem__), 0, []
        while i < len(pieces):
            here = tuple(pieces[i : i + 2]) == first
            joined.append("".join(first) if here else pieces[i])
            i += 1 + here
        pieces = joined
    return pieces


@MANY
@given(st.text("abe", max_size=40), st.lists(st.tuples(st.integers(0), st.integers(0)), max_size=15))
def test_merges_are_those_of_the_definition(word, learning):
    known, ranks = list("abe"), {}
    for left, right in learning:
        pair = known[left % len(known)], known[right % len(known)]
        if "".join(pair) not in known:  # as when it is learned: a piece is made in one way
            ranks[pair] = len(ranks)
            known.append("".join(pair))
    assert merged(list(word), ranks) == by_definition(list(word), ranks)


def test_a_mark_in_a_text_is_read_as_one():
    assert OURS.encode("a<end_of_text>b") == [*OURS.encode("a"), OURS.end, *OURS.encode("b")]


@pytest.mark.parametrize(("text", "mended"), [("a red apple, 50 %!", False), ("naïve", True), ("a &amp; b", True)])
def test_reading_imports_neither_open_clip_nor_needlessly_ftfy(text, mended):
    code = (
        "import sys\nfrom ldm.nets.clip_tokenizer import ClipTokenizer\n"
        f"ClipTokenizer().encode({text!r})\nprint('open_clip' in sys.modules, 'ftfy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", str(mended)], done.stderr
