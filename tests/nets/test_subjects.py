"""Which of the known subjects another one is read as."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.nets.guess import with_phrases
from ldm.nets.sentence import SentenceSpec
from ldm.nets.subjects import MOST, Subjects, read_subjects
from ldm.nets.text import build_text

NAMES = ("fox", "whale", "locomotive", "full moon", "pizza", "racing car", "dog")


@pytest.fixture(scope="module")
def text():
    return build_text(SentenceSpec(bundle="models/minilm"))


@pytest.fixture(scope="module")
def subjects(text):
    return read_subjects(text, NAMES)


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
def test_a_new_subject_is_taken_for_the_one_that_means_most_alike(text, subjects, said, name):
    state = text([said]).pooled
    assert subjects.taken_for(state[0]) == name
    assert torch.equal(subjects.replaced(state)[0], subjects.states[NAMES.index(name)].float())


def test_known_subjects_and_empty_captions_are_read_as_they_were_written(text, subjects):
    captions = [*(f"{name}, flat" for name in NAMES), "a fox", ", flat", ""]
    as_written, read = with_phrases(text, captions), with_phrases(text, captions, subjects=subjects)
    assert torch.equal(read.phrases, as_written.phrases) and torch.equal(read.tokens, as_written.tokens)


def test_only_what_the_guess_reads_of_the_subject_is_changed(text, subjects):
    said, known = ["a sleepy fox, flat"], ["fox, flat"]
    read, fox, as_written = (
        with_phrases(text, said, subjects=subjects),
        with_phrases(text, known),
        with_phrases(text, said),
    )
    assert torch.equal(read.tokens, as_written.tokens) and torch.equal(read.pooled, as_written.pooled)
    torch.testing.assert_close(read.phrases, fox.phrases, atol=1e-3, rtol=1e-3)  # names are kept in half precision
    assert (read.phrases[:, 0] - as_written.phrases[:, 0]).abs().max() > 0.01


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 12), st.integers(0, 2**31))
def test_the_nearest_is_that_of_the_largest_cosine(known, width, asked, seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(known, width, generator=generator).half()
    others = torch.randn(asked, width, generator=generator)
    subjects = Subjects(tuple(map(str, range(known))), states)
    cosines = torch.cosine_similarity(others[:, None], states.float()[None], dim=2)
    index, cosine = subjects.nearest(others)
    torch.testing.assert_close(cosine, cosines.amax(1))
    torch.testing.assert_close(cosines.gather(1, index[:, None])[:, 0], cosines.amax(1))


def test_no_names_and_too_many_are_no_list(text):
    assert read_subjects(text, []) is None
    assert read_subjects(text, [str(i) for i in range(MOST + 1)]) is None
    assert read_subjects(text, ["fox", "fox"]).names == ("fox",)
    with pytest.raises(ValueError, match="2 names with 1 states"):
        Subjects(("a", "b"), torch.zeros(1, 4))
