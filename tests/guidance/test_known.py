"""Drawing the rest of a latent of which a part is known, against conditionals in closed form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.guidance.known import keep_known
from ldm.process.conditionals import q_sample
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid
from ldm.samplers import SAMPLERS, resampled

ONE_STEP_A_LEVEL = ["ancestral", "ddim", "dpm_solver", "unipc", "heun", "euler", "euler_ancestral"]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def even(steps):
    return TimeGrid(torch.cat([torch.linspace(-9, 9, steps, dtype=torch.float64), f64(math.inf)]))


def exact(data):
    return lambda x_t, logsnr: Denoised(data.denoise(x_t, logsnr))


def pairwise(data):
    """The exact denoiser of an image (b, n, 2) that is n independent draws of two-dimensional `data`."""

    def denoise(x_t, logsnr):
        levels = logsnr.repeat_interleave(x_t.shape[1])
        return Denoised(data.denoise(x_t.flatten(0, 1), levels).reshape(x_t.shape))

    return denoise


def start(known, grid, noise):
    """The first coordinate is known and starts on its own path, the second starts from noise."""
    e = noise.normal(known.shape).double()
    begun = q_sample(known, e, grid.logsnr[:1].expand(len(known)))
    return torch.stack([begun[:, 0], e[:, 1]], dim=1), e


@pytest.mark.parametrize("sampler", ONE_STEP_A_LEVEL)
def test_what_is_independent_of_the_known_part_is_drawn_as_without_it(sampler):
    data = GaussianMixture(f64(1.0), f64([0.5, -1.0]), f64([0.3, 0.7]))
    known, grid = f64([2.0, 0.0]).expand(8, 2), even(12)
    x, e = start(known, grid, NoiseStream(range(8)))
    kept = SAMPLERS[sampler](keep_known(exact(data), known, f64(0, 1)), x, grid, NoiseStream(range(8)))
    free = SAMPLERS[sampler](exact(data), e, grid, NoiseStream(range(8)))
    assert (kept[:, 0] == 2.0).all()
    torch.testing.assert_close(kept[:, 1], free[:, 1], rtol=0, atol=1e-12)


def test_the_known_part_keeps_its_noise_on_the_whole_path():
    data = GaussianMixture(f64(1.0), f64([0.5, -1.0]), f64([0.3, 0.7]))
    known, grid = f64([2.0, 0.0]).expand(3, 2), even(10)
    x, e = start(known, grid, NoiseStream(range(3)))
    seen = []
    SAMPLERS["ddim"](keep_known(exact(data), known, f64(0, 1)), x, grid, on_step=seen.append)
    for step in seen:
        path = q_sample(known, e, f64(step.logsnr).expand(3))
        torch.testing.assert_close(step.x_t[:, 0], path[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.25, 1.0])
def test_walking_each_step_again_approaches_the_conditional(value):
    """Two modes on the diagonal: the known coordinate says which of them the other one belongs to."""
    data = GaussianMixture(f64(0.5, 0.5), f64([-1.0, -1.0], [1.0, 1.0]), f64(0.25, 0.25))
    right = torch.softmax(-((value - f64(-1, 1)) ** 2) / 0.5, 0)[1].item()  # P(upper mode | known)
    pairs, grid = 4000, even(20)  # of one image, so that one stream draws them all
    known = f64([value, 0.0]).expand(1, pairs, 2)
    denoise, misses = keep_known(pairwise(data), known, f64(0, 1)), []
    for repeats in (1, 3, 10):
        noise = NoiseStream([0])
        e = noise.normal(known.shape).double()
        x = torch.where(f64(1, 0).bool(), q_sample(known, e, grid.logsnr[:1]), e)
        z = resampled.resampled(SAMPLERS["ancestral"], repeats)(denoise, x, grid, noise)
        misses.append(right - (z[..., 1] > 0).double().mean().item())
    assert misses[0] > 0.15  # one walk sees the known value only through noise
    assert misses[0] > misses[1] + 0.05 > misses[2] + 0.05 and misses[2] < 0.12


@settings(max_examples=20)
@given(shares=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=6, max_size=6))
def test_the_mask_mixes_and_is_exact_at_both_ends(shares):
    mask, known, x = torch.tensor(shares).reshape(1, 1, 2, 3), torch.randn(2, 1, 2, 3), torch.randn(2, 1, 2, 3)
    x0 = keep_known(lambda x_t, logsnr: Denoised(x_t), known, mask)(x, torch.zeros(2)).x0
    whole = mask.expand_as(x)
    assert torch.equal(x0[whole == 1], x[whole == 1]) and torch.equal(x0[whole == 0], known[whole == 0])
    torch.testing.assert_close(x0, whole * x + (1 - whole) * known)


def test_one_repeat_is_the_sampler_itself_and_steps_are_reported_once():
    data, grid, seen = GaussianMixture(f64(1.0), f64([0.5]), f64([0.3])), even(5), []
    assert resampled.resampled(SAMPLERS["ddim"], 1) is SAMPLERS["ddim"]
    twice = resampled.resampled(SAMPLERS["ddim"], 2)
    twice(exact(data), f64([0.1]), grid, NoiseStream([0]), on_step=seen.append)
    assert [(step.index, step.steps) for step in seen] == [(i, 5) for i in range(5)]
    assert [step.logsnr for step in seen] == grid.logsnr[:-1].tolist()


def test_bad_input():
    identity, known = (lambda x_t, logsnr: Denoised(x_t)), torch.zeros(1, 2)
    for mask, words in ((torch.tensor([0.0, 1.5]), "outside"), (torch.zeros(1, 3), "does not broadcast")):
        with pytest.raises(ValueError, match=f"mask: .*{words}"):
            keep_known(identity, known, mask)
    with pytest.raises(ValueError, match="repeats: 0 is below 1"):
        resampled.resampled(SAMPLERS["ddim"], 0)
