"""A sampler of learned coefficients: it can be any of two known ones, and learning makes it better than both."""

import math

import pytest
import torch

from ldm.denoiser import Denoised
from ldm.evaluation.frechet import kernel_distance
from ldm.process.exact import GaussianMixture
from ldm.process.grid import uniform_logsnr
from ldm.process.schedule import Cosine
from ldm.samplers import ddim, dpm_solver
from ldm.samplers.learned import Coefficients, like_ddim, like_dpm_solver, sample
from ldm.training.learn_sampler import LearnableCoefficients, learn_sampler

SCHEDULE = Cosine(logsnr_min=-9.0, logsnr_max=9.0)
WORLD = GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([[1.0, 0.5], [-1.0, 1.0], [0.3, -1.6]], dtype=torch.float64),
    torch.full((3,), 0.03, dtype=torch.float64),
)


def denoise(x_t, logsnr):
    return Denoised(WORLD.denoise(x_t, logsnr))


def normals(seed, n=256):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(seed, n=256):
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return WORLD.sample(u, normals(seed + 1, n))


def sliced_wasserstein(a, b):
    """Mean over directions of the Wasserstein-1 distance between two sets of as many points."""
    angles = torch.arange(16, dtype=torch.float64) * math.pi / 16
    directions = torch.stack([angles.cos(), angles.sin()])
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean().item()


@pytest.mark.parametrize("end", [9.0, math.inf])
def test_it_is_ddim_and_dpm_solver_with_their_coefficients(end):
    grid, x = uniform_logsnr(SCHEDULE, 6, end=end), normals(0, 5)
    torch.testing.assert_close(sample(denoise, x, like_ddim(grid)), ddim.sample(denoise, x, grid), rtol=1e-10, atol=0)
    torch.testing.assert_close(
        sample(denoise, x, like_dpm_solver(grid)), dpm_solver.sample(denoise, x, grid), rtol=1e-10, atol=1e-12
    )


def test_its_report_counts_every_evaluation():
    grid, told = uniform_logsnr(SCHEDULE, 4), []
    sample(denoise, normals(0, 2), like_ddim(grid), on_step=told.append)
    assert [(step.index, step.steps) for step in told] == [(i, 4) for i in range(4)]
    assert [step.logsnr for step in told] == pytest.approx(grid.logsnr[:-1].tolist())


def test_learnable_ones_begin_as_they_are_given_and_keep_their_order():
    start = like_dpm_solver(uniform_logsnr(SCHEDULE, 5))
    learnable = LearnableCoefficients(start)
    now = learnable()
    for name in ("logsnr", "keep", "pull"):
        torch.testing.assert_close(getattr(now, name), getattr(start, name), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        learnable.log_rise.copy_(torch.randn(4) * 3)
    moved = learnable()
    assert (moved.logsnr.diff() > 0).all() and moved.logsnr[0] == start.logsnr[0]


def test_learning_beats_both_solvers_of_as_many_steps_on_noise_and_data_it_has_not_seen():
    grid = uniform_logsnr(SCHEDULE, 4)
    learned = learn_sampler(
        denoise, like_dpm_solver(grid), normals, lambda i: data(10_000 + 2 * i), lambda x: x, steps=300, lr=1e-2
    )
    x, real = normals(777_777, 4000), data(888_888, 4000)
    distances = {
        "learned": kernel_distance(sample(denoise, x, learned), real),
        "ddim": kernel_distance(ddim.sample(denoise, x, grid), real),
        "dpm_solver": kernel_distance(dpm_solver.sample(denoise, x, grid), real),
    }
    assert distances["learned"] < 0.05 * min(distances["ddim"], distances["dpm_solver"]), distances
    # and by a measure that it was not trained on
    wide = {
        "learned": sliced_wasserstein(sample(denoise, x, learned), real),
        "ddim": sliced_wasserstein(ddim.sample(denoise, x, grid), real),
        "dpm_solver": sliced_wasserstein(dpm_solver.sample(denoise, x, grid), real),
    }
    assert wide["learned"] < 0.7 * min(wide["ddim"], wide["dpm_solver"]), wide


def test_impossible_coefficients_are_refused_by_name():
    levels = torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="logsnr: .* are not finite and rising"):
        Coefficients(levels.flip(0), ones, torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="logsnr: .* are not finite and rising"):
        Coefficients(torch.tensor([-math.inf, 0.0, 3.0], dtype=torch.float64), ones, torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="steps: 0; give 1 or more"):
        learn_sampler(denoise, like_ddim(uniform_logsnr(SCHEDULE, 2)), normals, data, lambda x: x, steps=0)
