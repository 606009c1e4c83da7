"""Samplers fitted to exact trajectories: better than any solver where both are known, and stored without loss."""

import math
from itertools import combinations

import pytest
import torch

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.evaluation.matched import _misses, best_paths, fit, follow, rms
from ldm.process.exact import GaussianMixture
from ldm.process.grid import chosen, spaced
from ldm.process.schedule import Cosine
from ldm.samplers import SAMPLERS
from ldm.samplers.learned import MEMORY, as_sampler, remembered, sample
from ldm.samplers.tuned import Choice

SCHEDULE = Cosine()
DATA = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.5, 0.5], [1.0, -0.25]], dtype=torch.float64),
    torch.tensor([0.3, 0.1], dtype=torch.float64),
)
FINE = chosen(SCHEDULE, [20 * i + 19 for i in range(50)])


def denoise(x_t, logsnr):
    return Denoised(DATA.denoise(x_t, logsnr))


def normal(n, seed):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def seen():
    return follow(denoise, normal(48, 0), FINE)


@pytest.fixture(scope="module")
def unseen():
    return follow(denoise, normal(48, 1), FINE)


def test_the_trajectories_are_the_flow(seen):
    """More levels lead nearer and nearer to where many lead."""
    ends = [follow(denoise, normal(48, 0), spaced(SCHEDULE, n, "trailing")).at[-1] for n in (50, 200, 1000)]
    assert 3 * rms(ends[1] - ends[2]) < rms(ends[0] - ends[2]) < 0.01
    assert torch.equal(ends[0], seen.at[-1])
    assert seen.at_level(seen.levels[3]) is not None and len(seen.estimate) == len(seen.levels) - 1 == 50


@pytest.mark.parametrize("steps", [2, 4, 6, 10])
def test_a_fitted_sampler_beats_every_solver_on_noise_it_has_not_seen(steps, seen, unseen):
    fitted = [fit(denoise, best_paths(seen, steps, power)[-1], seen) for power in (0.0, 1.0, 2.0)]
    best = min(fitted, key=lambda f: f[1])[0]
    ours = rms(sample(denoise, unseen.at[0], best) - unseen.at[-1])
    solvers = [
        rms(SAMPLERS[name](denoise, unseen.at[0], spaced(SCHEDULE, steps, spacing)) - unseen.at[-1])
        for name in ("ddim", "dpm_solver", "unipc")
        for spacing in ("trailing", "uniform_logsnr", "quadratic")
    ]
    assert ours < 0.8 * min(solvers)


def test_what_it_says_of_its_distance_is_where_it_ends(seen):
    path = [seen.levels[i] for i in (0, 17, 30, 44)]
    coefficients, distance = fit(denoise, path, seen)
    assert rms(sample(denoise, seen.at[0], coefficients) - seen.at[-1]) == pytest.approx(distance, rel=1e-9)
    assert coefficients.logsnr.tolist() == path


def test_one_step_is_the_best_multiple_of_noise_and_estimate(seen):
    coefficients, distance = fit(denoise, seen.levels[:1], seen)
    x, estimate = seen.at[0].flatten(), seen.estimate[0].flatten()
    solution = torch.linalg.lstsq(torch.stack([x, estimate], 1), seen.at[-1].flatten()).solution
    torch.testing.assert_close(
        torch.stack([coefficients.keep[0], coefficients.pull[0, 0]]), solution, rtol=1e-5, atol=0
    )
    assert distance < rms(seen.estimate[0] - seen.at[-1])


def test_the_programme_finds_the_best_of_all_paths(seen):
    """Brute force over few levels."""
    few = follow(denoise, normal(16, 2), chosen(SCHEDULE, [125 * i + 124 for i in range(8)]))
    first, later = _misses(few)

    def cost(path):
        nodes = [*path, len(few.levels) - 1]
        steps = [first[nodes[1]], *(later[i, j, n] for i, j, n in zip(nodes, nodes[1:], nodes[2:], strict=False))]
        return float(sum(steps))

    for steps, path in enumerate(best_paths(few, 8, 0.0), start=1):
        nodes = [few.levels.index(level) for level in path]
        everything = [(0, *rest) for rest in combinations(range(1, 8), steps - 1)]
        assert cost(nodes) == pytest.approx(min(map(cost, everything)), rel=1e-9)


def test_numbers_survive_storage_and_belong_to_their_grid(seen):
    coefficients, _ = fit(denoise, [seen.levels[i] for i in (0, 9, 17, 26, 33, 44)], seen)
    assert all(len(row) == min(i + 1, MEMORY) for i, row in enumerate(coefficients.recent()))
    again = remembered(coefficients.logsnr.tolist(), coefficients.keep.tolist(), coefficients.recent())
    assert torch.equal(again.pull, coefficients.pull) and torch.equal(again.keep, coefficients.keep)
    run = as_sampler(again)
    x = normal(3, 5)
    assert torch.equal(run(denoise, x, again.grid(), NoiseStream([0, 1, 2])), sample(denoise, x, coefficients))
    with pytest.raises(ValueError, match="belong to other levels"):
        run(denoise, x, spaced(SCHEDULE, 6, "trailing"))


def test_what_does_not_fit_is_refused(seen):
    with pytest.raises(ValueError, match="path: it starts at"):
        fit(denoise, seen.levels[1:3], seen)
    with pytest.raises(ValueError, match=r"most: 51 is not in 1..50"):
        best_paths(seen, 51, 0.0)
    with pytest.raises(ValueError, match="recent"):
        remembered([0.0, 1.0], [1.0, 1.0], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="2 fitted levels for 3 steps"):
        Choice(steps=3, scale=1.0, sampler="ddim", spacing="trailing", distance=1.0, logsnr=(0.0, 1.0), keep=(1.0, 1.0))
    assert math.isfinite(rms(seen.at[-1]))
