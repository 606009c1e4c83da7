"""Views are pure functions of (row, seed), in the stated shares; compositing is the alpha equation."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.rng import fold
from ldm.data.captions import BACKGROUNDS, WHITE, compose, draw_view, has_views, keywords_of, with_article

ROW = {
    "caption": "rocket, flat twemoji",
    "name": "rocket",
    "style": "twemoji",
    "style_words": "flat twemoji",
    "keywords": ["space", "launch", "ship"],
}
MANY = 4000


@pytest.fixture(scope="module")
def views():
    return [draw_view(ROW, fold(0, "view", i)) for i in range(MANY)]


@given(st.integers(0, 2**63 - 1))
def test_same_seed_same_view(seed):
    assert draw_view(ROW, seed) == draw_view(dict(ROW), seed)


def test_white_half_of_the_time_and_never_named(views):
    white = [view for view in views if view.background == WHITE]
    assert len(white) / MANY == pytest.approx(0.5, abs=0.03)
    assert not any("background" in view.caption for view in white)


def test_every_other_colour_is_named_and_equally_frequent(views):
    counts = Counter()
    for view in views:
        for name, colour in BACKGROUNDS.items():
            if view.background == colour != WHITE:
                assert view.caption.endswith(f", on a {name} background")
                counts[name] += 1
    assert set(counts) == set(BACKGROUNDS) - {"white"}
    assert min(counts.values()) > MANY / 14 * 0.8 and max(counts.values()) < MANY / 14 * 1.2


def test_shares_of_the_templates(views):
    kinds = Counter()
    for view in views:
        text = view.caption.split(", on a ")[0]
        if text == "rocket, flat twemoji":
            kinds["full"] += 1
        elif text in ("rocket", "a rocket"):
            kinds["no style"] += 1
        elif text in ("flat twemoji of a rocket", "flat twemoji, rocket", "a rocket, flat twemoji"):
            kinds["other order"] += 1
        else:
            *words, style = text.split(", ")
            assert style == "flat twemoji" and set(words) <= set(ROW["keywords"])
            assert len(words) == len(set(words)) and len(words) in (2, 3)
            kinds["keywords"] += 1
    shares = {kind: count / MANY for kind, count in kinds.items()}
    expected = {"full": 0.6, "no style": 0.15, "keywords": 0.1, "other order": 0.15}
    assert shares == pytest.approx(expected, abs=0.025)


def test_a_row_with_only_a_caption_keeps_it_on_white():
    row = {"caption": "my cat Tom, 2019"}
    assert not has_views(row)
    assert {(v.caption, v.background) for v in (draw_view(row, s) for s in range(50))} == {("my cat Tom, 2019", WHITE)}


def test_a_row_without_keywords_never_draws_them():
    row = {**ROW, "keywords": []}
    assert all("rocket" in draw_view(row, seed).caption for seed in range(200))


def test_keywords_of_a_table_are_split():
    assert keywords_of({"keywords": "space, launch,,ship "}) == ["space", "launch", "ship"]
    assert keywords_of({"keywords": None}) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rocket", "a rocket"),
        ("apple", "an apple"),
        ("grapes", "grapes"),
        ("face with hearts", "a face with hearts"),
        ("glass of milk", "a glass of milk"),
        ("octopus", "an octopus"),
        ("ballet shoes", "ballet shoes"),
    ],
)
def test_article(name, expected):
    assert with_article(name) == expected


@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from(list(BACKGROUNDS.values())))
def test_compose_is_the_alpha_equation(value, alpha, background):
    rgba = np.array([[[value, 255 - value, 7, alpha]]], dtype=np.uint8)
    image = compose(rgba, background).double()[:, 0, 0]
    colour = torch.tensor([value, 255 - value, 7], dtype=torch.float64)
    expected = (alpha * colour + (255 - alpha) * torch.tensor(background, dtype=torch.float64)) / 255 / 127.5 - 1
    assert torch.allclose(image, expected, atol=1e-6)
    assert image.min() >= -1 and image.max() <= 1


def test_compose_ends_are_exact():
    rgba = torch.tensor([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=torch.uint8)
    image = compose(rgba, WHITE)
    assert torch.equal(image[:, 0, 0], torch.tensor([10.0, 20.0, 30.0]) / 127.5 - 1)
    assert torch.equal(image[:, 0, 1], torch.ones(3))
    assert torch.equal(compose(rgba[..., :3], BACKGROUNDS["red"]), compose(rgba[..., :3], WHITE))


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 4))])
def test_compose_refuses_other_arrays(bad):
    with pytest.raises(ValueError, match=r"rgba: expected uint8 of shape"):
        compose(bad, WHITE)
