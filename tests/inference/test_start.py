"""Where a drawing starts: how much is walked, between two noises, and a picture's own noise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.denoiser import Denoised
from ldm.inference.blend import Blend, between, slerp
from ldm.inference.canvas import Canvas
from ldm.inference.start import Encoded, Start, begun
from ldm.nets.cond import Cond
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim

CANVAS = Canvas(torch.zeros(3, 4, 4, dtype=torch.uint8))


def even(steps, last=math.inf):
    rising = torch.linspace(-6, 6, steps, dtype=torch.float64)
    return TimeGrid(torch.cat([rising, torch.tensor([last], dtype=torch.float64)]))


@given(steps=st.integers(2, 60), strength=st.floats(0.001, 0.999))
def test_the_last_share_of_the_steps_is_walked_never_none_never_all(steps, strength):
    grid = even(steps)
    walked = Start(canvas=CANVAS, strength=strength).walked(grid)
    assert walked is not None and 1 <= len(walked) <= steps - 1
    assert abs(len(walked) - steps * strength) <= 1
    assert torch.equal(walked.logsnr, grid.logsnr[-len(walked) - 1 :])


def test_both_ends_of_strength():
    assert Start(canvas=CANVAS, strength=1.0).walked(even(3)).logsnr.equal(even(3).logsnr)
    assert Start(canvas=CANVAS, strength=0.0).walked(even(3)) is None
    with pytest.raises(ValueError, match="strength: 0.5 of 1 step is none or all of it"):
        Start(canvas=CANVAS, strength=0.5).walked(even(1))


def test_the_start_is_the_picture_at_the_level_and_noise_alone_where_it_is_drawn():
    z, e, grid = torch.randn(1, 2, 3, 3), torch.randn(4, 2, 3, 3), even(5)
    mask = torch.zeros(1, 1, 3, 3)
    mask[..., 1] = 1
    level = torch.sigmoid(grid.logsnr[0]).float()
    noised = level.sqrt() * z + (1 - level).sqrt() * e
    for strength, masked, expected in (
        (0.5, None, noised),
        (0.5, mask, noised),
        (1.0, mask, torch.where(mask == 1, e, noised)),
    ):
        start = Start(canvas=CANVAS, strength=strength)
        torch.testing.assert_close(begun(start, Encoded(z, masked, None), e, grid, never), expected)
    beside = Encoded(z, mask, torch.zeros(1, 3, 3, 3))
    assert torch.equal(begun(Start(canvas=CANVAS), beside, e, grid, never), e)


def never(x_t, logsnr):
    raise AssertionError("nothing is evaluated to begin from a noised picture")


def test_a_picture_is_drawn_again_from_its_own_noise():
    data = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), torch.tensor([0.2, 0.1]))
    z, e, grid = torch.tensor([[0.7, 0.1]]), torch.randn(3, 2), even(20)
    denoise = lambda x_t, logsnr: Denoised(data.denoise(x_t, logsnr))  # noqa: E731
    for vary, near in ((0.0, 0.02), (1.0, None)):
        x = begun(Start(canvas=CANVAS, vary=vary), Encoded(z, None, None), e, grid, denoise)
        if near is None:
            assert torch.equal(x, e)
        else:
            assert (ddim.sample(denoise, x, grid) - z).abs().max() < near


@given(share=st.floats(0, 1))
def test_the_arc_between_two_noises_is_noise(share):
    a, b = torch.randn(2, 1, 40_000, generator=torch.Generator().manual_seed(1)).unbind()
    point = slerp(a, b, torch.tensor([share]))
    assert abs(point.std() - 1) < 0.02
    torch.testing.assert_close(point, slerp(b, a, torch.tensor([1 - share])), rtol=1e-4, atol=1e-4)


def test_the_ends_of_the_arc_are_exact_and_parallels_have_no_arc():
    a, b = torch.randn(2, 3, 5, 4).unbind()
    assert torch.equal(slerp(a, b, torch.zeros(3)), a) and torch.equal(slerp(a, b, torch.ones(3)), b)
    torch.testing.assert_close(slerp(a, a, torch.full((3,), 0.3)), a)


def test_conditions_are_exact_at_both_ends_and_see_the_words_of_both_between():
    a, b = (
        Cond(torch.randn(3, 4, 6), torch.arange(4).expand(3, 4) < n, torch.randn(3, 6), phrases=torch.randn(3, 2, 6))
        for n in (2, 3)
    )
    mixed = between(a, b, torch.tensor([0.0, 0.5, 1.0]))
    for name, value in mixed.present().items():
        assert torch.equal(value[0], a.present()[name][0]) and torch.equal(value[2], b.present()[name][2])
    torch.testing.assert_close(mixed.tokens[1], (a.tokens[1] + b.tokens[1]) / 2)
    assert mixed.mask[1].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Start(canvas=CANVAS, strength=1.1), "strength: 1.1"),
        (lambda: Start(canvas=CANVAS, strength=math.nan), "strength: nan"),
        (lambda: Start(canvas=CANVAS, vary=-0.1), "vary: -0.1"),
        (lambda: Start(canvas=CANVAS, vary=0.5, strength=0.5), "vary: it draws the whole picture"),
        (lambda: Start(canvas=CANVAS, resample=0), "resample: 0"),
        (lambda: Blend(share=(1.5,)), "share: .*1.5"),
        (lambda: Blend(share=(0.5,), seeds=(1, 2)), "blend.seeds: 2 for 1"),
    ],
)
def test_bad_values(make, words):
    with pytest.raises(ValueError, match=words):
        make()
