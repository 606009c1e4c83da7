"""The local error of ODE steps along trajectories, against steps that are taken, in a world with a known denoiser."""

import math

import pytest
import torch

from ldm.denoiser import Denoised
from ldm.evaluation.paths import nodes_of
from ldm.evaluation.truncation import trajectories, truncation_table
from ldm.process.exact import GaussianMixture
from ldm.process.grid import chosen
from ldm.process.paths import even, optimal_paths, path_along, quadratic
from ldm.process.schedule import Cosine
from ldm.samplers import ddim

SCHEDULE, NODES = Cosine(logsnr_min=-12.0, logsnr_max=12.0, steps=60), 60


def mixture(seed: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    mu = 2 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return GaussianMixture(torch.full((5,), 0.2, dtype=torch.float64), mu, torch.full((5,), 0.02, dtype=torch.float64))


def measured(seed: int, n: int = 64):
    world = mixture(seed)
    levels = nodes_of(SCHEDULE, range(NODES))
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def denoise(x_t, logsnr):
        return Denoised(world.denoise(x_t, logsnr))

    return denoise, x, levels, *trajectories(denoise, x, levels)


def test_a_trajectory_is_the_sampler_s_own_walk():
    denoise, x, _, at, estimate = measured(0)
    end = ddim.sample(denoise, x, chosen(SCHEDULE, range(NODES)))
    torch.testing.assert_close(at[0], end, rtol=1e-10, atol=1e-12)
    assert torch.equal(at[NODES], x) and torch.equal(estimate[0], at[0]) and len(at) == len(estimate) == NODES + 1


def test_an_entry_is_where_the_sampler_lands_from_the_trajectory():
    denoise, _, levels, at, estimate = measured(1, 8)
    table = truncation_table(at, estimate, levels)
    for t, s in ((60, 30), (40, 1), (20, 0)):
        x0_hat = denoise(at[t], torch.full((8,), levels[t - 1].item(), dtype=torch.float64)).x0
        landed = ddim.step(at[t], x0_hat, levels[t - 1].item(), levels[s - 1].item() if s else math.inf)
        assert table[t, s].item() == pytest.approx((landed - at[s]).square().mean().sqrt().item(), rel=1e-9)
    assert max(table[t, t - 1].item() for t in range(1, NODES + 1)) < 1e-12
    assert torch.isinf(table[torch.ones(NODES + 1, NODES + 1, dtype=torch.bool).triu()]).all()


def test_for_data_at_one_point_every_step_is_exact():
    levels = nodes_of(SCHEDULE, range(NODES))
    point = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    at, estimate = trajectories(lambda x_t, _: Denoised(point.expand_as(x_t)), torch.randn(4, 3).double(), levels)
    table = truncation_table(at, estimate, levels)
    assert table[torch.ones(NODES + 1, NODES + 1, dtype=torch.bool).tril(-1)].max() < 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_the_path_of_least_local_error_ends_nearer_to_the_trajectory_than_even_and_quadratic_ones(seed):
    """The sum of local errors is a proxy; what it is for is the distance at the end, on other noise."""
    denoise, _, levels, at, estimate = measured(seed)
    paths = optimal_paths(truncation_table(at, estimate, levels), 20)
    x = torch.randn(256, 3, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    end = ddim.sample(denoise, x, chosen(SCHEDULE, range(NODES)))

    def distance(nodes) -> float:
        grid = chosen(SCHEDULE, [node - 1 for node in nodes])
        return (ddim.sample(denoise, x, grid) - end).square().mean().sqrt().item()

    for steps in (5, 10, 20):
        best = distance(paths[steps - 1].indices)
        assert best < min(distance(even(NODES, steps)), distance(quadratic(NODES, steps)))
        assert paths[steps - 1].nats <= path_along(truncation_table(at, estimate, levels), even(NODES, steps)).nats
