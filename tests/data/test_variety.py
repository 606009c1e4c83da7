"""Mirrored pictures keep true captions; tags change their order and nothing else."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldm.data.captions import WHITE, View
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.position import Draw
from ldm.data.variety import Variety, mirrored, names_a_side, shuffled


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("a hand pointing left", "a hand pointing right"),
        ("LEFT arrow, Right-handed", "RIGHT arrow, Left-handed"),
        ("leftmost of two, rightwards", "rightmost of two, leftwards"),
        ("left, right, left.", "right, left, right."),
    ],
)
def test_sides_are_exchanged(caption, other):
    assert mirrored(caption) == other and mirrored(other) == caption and names_a_side(caption)


@pytest.mark.parametrize(
    "caption", ["a bright light", "copyright, leftover rice", "human rights", "upright", "caf\u00e9 \u5de6"]
)
def test_other_words_are_left_alone(caption):
    assert mirrored(caption) == caption and not names_a_side(caption)


@given(st.text())
def test_mirroring_twice_is_nothing(caption):
    assert mirrored(mirrored(caption)) == caption


@given(parts=st.lists(st.text(alphabet="abc ", min_size=1).map(str.strip), min_size=1), seed=st.integers(0, 99))
def test_shuffled_tags_are_the_same_tags_with_the_first_in_place(parts, seed):
    found = shuffled(", ".join(parts), random.Random(seed)).split(", ")
    assert found[0] == parts[0] and sorted(found) == sorted(parts)


def shown(variety, caption, count=200):
    return [variety.of(View(caption=caption, background=WHITE), seed) for seed in range(count)]


def test_half_of_the_showings_are_mirrored_with_their_captions():
    views = shown(Variety(flip="swap"), "left arrow")
    assert 70 < sum(view.mirror for view in views) < 130
    assert all(view.caption == ("right arrow" if view.mirror else "left arrow") for view in views)


def test_captions_that_name_a_side_can_keep_their_pictures_as_they_are():
    variety = Variety(flip="unless_named")
    assert not any(view.mirror for view in shown(variety, "left arrow"))
    assert any(view.mirror for view in shown(variety, "an apple"))


def test_nothing_varies_unless_asked():
    assert {view.caption for view in shown(Variety(), "a, b, c")} == {"a, b, c"}
    assert {view.caption for view in shown(Variety(shuffle_tags=True), "a, b, c")} == {"a, b, c", "a, c, b"}


def test_a_folder_mirrors_what_it_draws_and_nothing_else(tmp_path):
    picture = Image.new("RGB", (16, 16))
    picture.paste((255, 255, 255), (0, 0, 8, 16))
    picture.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("white on the left")
    folder = ImageFolder(FolderSpec(path=str(tmp_path), size=16, variety=Variety(flip="swap")))
    sides = set()
    for seed in range(20):
        sample = folder[Draw(0, seed)]
        left = bool((sample.image[..., :8] == 1).all())
        assert sample.caption == f"white on the {'left' if left else 'right'}"
        sides.add(left)
    assert sides == {True, False} and torch.equal(folder[0].image[..., :8], torch.ones(3, 16, 8))
