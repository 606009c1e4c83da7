"""What a guess reads phrases as that it was not trained on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.bundle import content_hash
from ldm.nets.guess import with_phrases
from ldm.nets.prompt import parse
from ldm.nets.reading import read
from ldm.nets.sentence import SentenceSpec
from ldm.nets.text import build_text
from ldm.nets.vocabulary import Vocabulary

NAMES = ("fox", "whale", "locomotive", "full moon", "pizza", "racing car", "dog")
STYLES = ("flat", "flat ink", "oil")
APART = torch.tensor([[0.0, 3.0, 1.0], [3.0, 0.0, 2.0], [1.0, 2.0, 0.0]])


@pytest.fixture(scope="module")
def text():
    return build_text(SentenceSpec(bundle="models/minilm"))


@pytest.fixture(scope="module")
def vocabulary(text):
    """Every subject is known in every style, but for the whale in ink, and the dog in oil alone."""
    shown = torch.ones(len(NAMES), len(STYLES), dtype=torch.bool)
    shown[NAMES.index("whale"), 1] = False
    shown[NAMES.index("dog"), :2] = False
    return Vocabulary(NAMES, text(NAMES).pooled.half(), STYLES, shown, APART, ("on red",))


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("sleepy fox", "fox"),
        ("blue whale", "whale"),
        ("old steam train", "locomotive"),
        ("moon", "full moon"),
        ("slice of pizza", "pizza"),
        ("sports car", "racing car"),
        ("puppy", "dog"),
    ],
)
def test_a_new_subject_is_taken_for_the_one_that_means_most_alike(text, vocabulary, said, name):
    state = text([said]).pooled
    assert vocabulary.taken_for(state[0], said, "oil") == (name, None)
    assert torch.equal(vocabulary.subjects(state, [said])[0], vocabulary.states[NAMES.index(name)].float())


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("hound", "dog"),  # as without keywords
        ("a hedgehog", "whale"),  # of one subject, however far
        ("hedgehogs", "whale"),
        ("treats", "pizza"),  # the nearer of two that have it
        ("fox", None),  # a name first
        ("Snow-Foxes", "dog"),
        ("sleepy hedgehog", "fox"),  # not the keyword itself
    ],
)
def test_a_keyword_leaves_only_the_subjects_that_have_it(text, vocabulary, said, name):
    words = {"whale": ("hedgehog", "fox"), "pizza": ("treat",), "locomotive": ("treats",), "dog": ("snow foxes",)}
    known = replace(vocabulary, keywords=tuple(words.get(name, ()) for name in NAMES))
    found = with_phrases(text, [f"{said}, oil"], vocabulary=known).phrases
    wanted = with_phrases(text, [f"{name or said}, oil"]).phrases
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    subject = said.removeprefix("a ")
    assert known.taken_for(text([subject]).pooled[0], subject, "oil") == (name, None)


def test_known_captions_and_empty_ones_are_read_as_they_were_written(text, vocabulary):
    names = [name for name in NAMES if name != "dog"]
    captions = [*(f"{name}, flat, on a blue ground" for name in names), "a fox, oil", "dog, oil", ", flat ink", ""]
    as_written, found = with_phrases(text, captions), with_phrases(text, captions, vocabulary=vocabulary)
    assert torch.equal(found.phrases, as_written.phrases) and torch.equal(found.tokens, as_written.tokens)


def test_only_what_the_guess_reads_is_changed(text, vocabulary):
    found = with_phrases(text, ["a sleepy fox, flat"], vocabulary=vocabulary)
    as_written, fox = with_phrases(text, ["a sleepy fox, flat"]), with_phrases(text, ["fox, flat"])
    assert torch.equal(found.tokens, as_written.tokens) and torch.equal(found.pooled, as_written.pooled)
    torch.testing.assert_close(found.phrases, fox.phrases, atol=1e-3, rtol=1e-3)  # names are kept in half precision
    assert (found.phrases[:, 0] - as_written.phrases[:, 0]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("caption", "read_as"),
    [
        ("whale, flat ink, on red", "whale, oil, on red"),  # flat is farther from ink than oil is
        ("dog, flat, on red", "dog, oil, on red"),
        ("dog, flat ink", "dog, oil"),
        ("dog, in flat ink", "dog, in oil"),
        ("puppy, flat", "dog, oil"),
        ("whale, crayon", "whale, oil"),  # the nearest to all others
        ("whale, crayon on paper, on red", "whale, oil, on red"),
        ("whale", "whale, oil"),
        ("flat drawing of a fox", "fox, flat"),
        ("flat drawing of a dog", "dog, oil"),
    ],
)
def test_a_subject_is_read_in_the_nearest_style_that_it_was_shown_in(text, vocabulary, caption, read_as):
    found, wanted = with_phrases(text, [caption], vocabulary=vocabulary), with_phrases(text, [read_as])
    torch.testing.assert_close(found.phrases, wanted.phrases, atol=1e-3, rtol=1e-3)
    weighted = with_phrases(text, [parse(caption)], (), lambda prompts: read(text, prompts), vocabulary)
    torch.testing.assert_close(weighted.phrases, found.phrases)


def test_weights_beside_the_style_stay(text, vocabulary):
    said, wanted = parse("dog, flat, on (red:1.5)"), parse("dog, oil, on (red:1.5)")
    found = with_phrases(text, [said], (), lambda prompts: read(text, prompts), vocabulary)
    torch.testing.assert_close(found.phrases, with_phrases(text, [wanted], (), lambda p: read(text, p)).phrases)


def test_captions_with_a_learned_word_are_read_as_they_were_written(vocabulary):
    text = build_text(SentenceSpec(bundle="models/minilm"))
    text.teach("<ink>", torch.randn(2, text.width, generator=torch.Generator().manual_seed(0)))
    said = ["a sleepy fox, <ink>", "<ink>", "a <ink>, flat"]
    found, as_written = with_phrases(text, said, vocabulary=vocabulary), with_phrases(text, said)
    assert torch.equal(found.phrases, as_written.phrases)
    (without,) = with_phrases(text, ["a sleepy fox, flat"], vocabulary=vocabulary).phrases
    torch.testing.assert_close(without, with_phrases(text, ["fox, flat"]).phrases[0], atol=1e-3, rtol=1e-3)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 12), st.integers(0, 2**31))
def test_the_nearest_is_that_of_the_largest_cosine(known, width, asked, seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(known, width, generator=generator).half()
    others = torch.randn(asked, width, generator=generator)
    shown = torch.ones(known, 1, dtype=torch.bool)
    vocabulary = Vocabulary(tuple(map(str, range(known))), states, ("flat",), shown, torch.zeros(1, 1))
    cosines = torch.cosine_similarity(others[:, None], states.float()[None], dim=2)
    index, cosine = vocabulary.nearest(others, ["0"] * asked)
    torch.testing.assert_close(cosine, cosines.amax(1))
    torch.testing.assert_close(cosines.gather(1, index[:, None])[:, 0], cosines.amax(1))


def test_tables_that_do_not_fit_are_refused():
    shown = torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"names: 2 with \(1, 4\) states"):
        Vocabulary(("a", "b"), torch.zeros(1, 4), ("x",), shown[:1], torch.zeros(1, 1))
    with pytest.raises(ValueError, match="which of 1 styles show them"):
        Vocabulary(("a", "b"), torch.zeros(2, 4), ("x",), ~shown, torch.zeros(1, 1))
    with pytest.raises(ValueError, match="keywords: 1 lists for 2 names"):
        Vocabulary(("a", "b"), torch.zeros(2, 4), ("x",), shown, torch.zeros(1, 1), keywords=(("c",),))


def test_a_list_without_keywords_is_known_as_before_there_were_any(vocabulary):
    words = {name: getattr(vocabulary, name) for name in ("names", "styles", "grounds")}
    tables = {name: getattr(vocabulary, name) for name in ("states", "shown", "apart")}
    assert vocabulary.key == content_hash(words, tables)


def test_what_is_not_said_is_not_told(text, vocabulary):
    state = text(["fox"]).pooled[0]
    assert vocabulary.taken_for(state, "fox", "") == (None, None)
    assert vocabulary.taken_for(state, "fox", "crayon, on red") == (None, "oil, on red")


def test_it_tells_the_captions_of_training(vocabulary):
    said = vocabulary.captions()
    assert len(said) == len(set(said)) == vocabulary.shown.sum()
    assert said[:2] == ["fox, flat, on red", "fox, flat ink"] and "whale, flat ink" not in " ".join(said)
    assert sum("on red" in caption for caption in said) == -(-len(said) // 4)
    assert replace(vocabulary, grounds=()).captions()[0] == "fox, flat"
