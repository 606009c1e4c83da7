"""The picture that a drawing starts from: kept to the pixel, joined without a step, continued smoothly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.core.images import to_uint8
from ldm.inference.canvas import Canvas, continued


def random(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def box(height, width, top, left, bottom, right):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@settings(max_examples=10, deadline=None)
@given(size=st.tuples(st.integers(4, 40), st.integers(4, 40)), feather=st.integers(0, 9), seed=st.integers(0, 99))
def test_what_is_kept_comes_back_exactly_and_the_rest_is_drawn(size, feather, seed):
    pixels, unit = random(*size, seed), 16
    mask = random(*size, seed + 1)[0] > 100
    mask[0, 0] = True
    canvas = Canvas(pixels, mask, feather)
    height, width = canvas.image(unit).shape[2:]
    assert height % unit == width % unit == 0 and height - size[0] < unit and width - size[1] < unit
    joined = canvas.joined(torch.full((2, 3, height, width), 0.3))
    assert joined.shape == (2, 3, *size)
    assert torch.equal(to_uint8(joined)[:, :, ~mask], pixels[None, :, ~mask].expand(2, -1, -1))
    if feather == 0:
        assert (joined[:, :, mask] == 0.3).all()


def test_the_seam_lies_inside_and_rises_to_one():
    share = Canvas(random(20, 20), box(20, 20, 4, 4, 16, 20), feather=3).share()[0, 0]
    assert torch.allclose(share[10, 2:10], torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1, 1]))
    assert share[10, 19] == 1  # the picture's own edge is no seam


def test_extending_keeps_the_picture_and_draws_the_margins():
    canvas = Canvas(random(10, 12)).extended(3, 0, 4, 5)
    assert canvas.size == (15, 19) and canvas.mask is not None
    assert torch.equal(canvas.pixels[:, :10, 3:15], random(10, 12))
    assert not canvas.mask[:10, 3:15].any() and canvas.mask.sum() == 15 * 19 - 120


def test_what_is_under_the_mask_is_not_seen_when_filled():
    mask = box(16, 16, 2, 3, 9, 14)
    first, second = random(16, 16), random(16, 16)
    second[:, mask] = 255 - second[:, mask]
    filled = Canvas(first, mask).filled().pixels
    assert torch.equal(filled, Canvas(second, mask).filled().pixels)
    assert torch.equal(filled[:, ~mask], first[:, ~mask])


def test_across_the_seam_nothing_shows_that_lies_elsewhere():
    """White above, red below: a margin beside the white is white over the seam, however much red there is."""
    pixels = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].repeat(1, 40, 20)
    pixels[:, :12] = 255
    filled = Canvas(pixels, feather=4).extended(0, 0, 30, 0).pixels
    assert (filled[:, :8, 20:24] == 255).all() and (filled[0] == 255).all()
    assert (filled[1:, 16:, 20:24] == 0).all()


@pytest.mark.parametrize("size", [(64, 64), (37, 50)])
def test_a_ramp_solves_the_equation_and_is_restored(size):
    down, right = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])
    ramp, known = (down + right)[None, None], torch.ones(1, 1, *size)
    known[..., 8:30, 10:34] = 0
    found = continued(ramp * known, known)
    assert torch.equal(found[known > 0], ramp[known > 0])
    assert (found - ramp).abs().max() < 0.1  # of a range of 2


def test_bad_canvas():
    for mask, words in ((torch.ones(3, 4, dtype=torch.bool), "4x3 pixels for a picture of 5x4"), (None, "")):
        if mask is not None:
            with pytest.raises(ValueError, match=words):
                Canvas(random(4, 5), mask)
    with pytest.raises(ValueError, match="nothing in it is white"):
        Canvas(random(4, 5), torch.zeros(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="feather: -1"):
        Canvas(random(4, 5), feather=-1)
    with pytest.raises(ValueError, match="negative margin"):
        Canvas(random(4, 5)).extended(0, -1, 0, 0)
