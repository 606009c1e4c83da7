"""The likelihood by the probability flow against densities that are known, and its trace against all signs."""

import itertools
import math

import pytest
import torch

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid
from ldm.samplers.likelihood import ode_nll, rademacher


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def even(steps, first, last):
    return TimeGrid(torch.linspace(first, last, steps + 1, dtype=torch.float64))


def denoiser(data):
    return lambda x_t, logsnr: Denoised(data.denoise(x_t, logsnr))


def true_nll(data, x, grid):
    return -data.log_prob(x, grid.logsnr[-1].expand(len(x)))


GAUSSIAN = GaussianMixture(f64(1.0), f64([0.5, -1.0, 0.0]), f64([0.25, 1.0, 4.0]))
MIXTURE = GaussianMixture(f64(0.3, 0.7), f64([-1.5, 0.5], [1.0, -0.25]), f64(0.3, 0.1))
CASES = [(GAUSSIAN, even(44, -18.0, 8.0)), (MIXTURE, even(70, -15.0, 4.0))]


def points(data, grid, n=6):
    """Draws of the data's distribution at the grid's last level, and one that is unlikely."""
    d = data.mu.shape[1]
    u, z, eps = torch.rand(n).double(), torch.randn(n, d).double(), torch.randn(n, d).double()
    level = grid.logsnr[-1]
    drawn = level.sigmoid().sqrt() * data.sample(u, z) + (-level).sigmoid().sqrt() * eps
    return torch.cat([drawn, torch.full((1, d), 2.5, dtype=torch.float64)])


@pytest.mark.parametrize(("data", "grid"), CASES, ids=["gaussian", "mixture"])
def test_likelihood_is_the_true_one_of_the_last_level(data, grid):
    x = points(data, grid)
    found, true = ode_nll(denoiser(data), x, grid), true_nll(data, x, grid)
    assert ((found - true).abs() / x.shape[1]).max() < 1e-3
    clean = -data.log_prob(x, torch.full((len(x),), math.inf, dtype=torch.float64))
    assert (found - clean).abs().max() > 1e-3  # not the density of x_0, and the test can tell


def nll_by_affine_flow(x, first, last):
    """Data N(mean, var): the flow keeps the distance from the mean in standard deviations, and starts from N(0, 1)."""
    alpha_bar, mean, var = f64(first, last).sigmoid()[:, None], GAUSSIAN.mu, GAUSSIAN.var
    centre, std = alpha_bar.sqrt() * mean, (alpha_bar * var + 1 - alpha_bar).sqrt()
    z = centre[0] + std[0] / std[1] * (x - centre[1])
    return (0.5 * z**2 + 0.5 * math.log(2 * math.pi) - (std[0] / std[1]).log()).sum(1)


def test_error_falls_with_the_fourth_power_of_the_step():
    """Between two levels of which neither is an end, so that only the integration can be wrong."""
    x = f64([0.1, -0.4, 1.0])
    true = nll_by_affine_flow(x, -4.0, 4.0)
    errors = [(ode_nll(denoiser(GAUSSIAN), x, even(n, -4.0, 4.0)) - true).abs().item() for n in (15, 30)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3) and errors[1] < 1e-4


@pytest.mark.parametrize("pull", [0.3, 0.8])
def test_any_denoiser_gives_a_density_that_integrates_to_one(pull):
    """Not only the true one: the flow of a made-up denoiser carries N(0, 1) to something of total mass 1."""

    def denoise(x_t, logsnr):
        return Denoised(torch.tanh(pull * x_t) + pull * x_t * logsnr[:, None].sigmoid())

    x = torch.linspace(-8, 8, 401, dtype=torch.float64)[:, None]
    mass = torch.trapezoid((-ode_nll(denoise, x, even(24, -10.0, 4.0))).exp(), x[:, 0])
    assert mass.item() == pytest.approx(1, abs=1e-4)


def test_trace_by_signs_is_unbiased_the_mean_over_all_of_them_is_the_exact_one():
    grid, x = even(6, -6.0, 4.0), f64([0.1, 0.4], [-1.0, 0.2])
    signs = f64(*itertools.product([-1.0, 1.0], repeat=2))
    each = torch.stack([ode_nll(denoiser(MIXTURE), x, grid, v.expand(1, 2, 2)) for v in signs])
    exact = ode_nll(denoiser(MIXTURE), x, grid)
    torch.testing.assert_close(each.mean(0), exact, rtol=1e-10, atol=1e-10)
    assert (each - exact).abs().max() > 1e-2  # a single probe does differ
    together = ode_nll(denoiser(MIXTURE), x, grid, signs[:, None].expand(4, 2, 2))
    torch.testing.assert_close(together, exact, rtol=1e-10, atol=1e-10)


def test_one_probe_is_exact_where_the_jacobian_is_diagonal():
    grid, x = even(10, -6.0, 4.0), torch.randn(3, 3, dtype=torch.float64)
    probes = rademacher(NoiseStream([1, 2, 3]), x, 1)
    found = ode_nll(denoiser(GAUSSIAN), x, grid, probes)
    torch.testing.assert_close(found, ode_nll(denoiser(GAUSSIAN), x, grid), rtol=1e-10, atol=1e-10)


def test_probes_are_signs_and_each_image_has_its_own():
    x = torch.zeros(2, 3, 40)
    probes = rademacher(NoiseStream([4, 9]), x, 50)
    assert probes.shape == (50, 2, 3, 40) and torch.equal(probes.abs(), torch.ones_like(probes))
    assert probes.mean().abs() < 4 / math.sqrt(probes.numel())
    assert torch.equal(probes[:, 1:], rademacher(NoiseStream([9]), x[:1], 50))


def test_works_without_gradients_around_it_and_leaves_no_graph():
    grid, x = even(4, -6.0, 4.0), f64([0.1, 0.4], [-1.0, 0.2])
    with torch.no_grad():
        found = ode_nll(denoiser(MIXTURE), x, grid)
    assert not found.requires_grad and not x.requires_grad
    torch.testing.assert_close(found[1:], ode_nll(denoiser(MIXTURE), x[1:], grid), rtol=1e-12, atol=0)


@pytest.mark.parametrize("ends", [(-math.inf, 4.0), (-6.0, math.inf)])
def test_infinite_levels_are_refused(ends):
    with pytest.raises(ValueError, match="the density needs two finite levels"):
        ode_nll(denoiser(MIXTURE), f64([0.0, 0.0]), TimeGrid(f64(*ends)))


def test_missing_probes_and_missing_gradients_are_named():
    x, grid = f64([0.0, 0.0]), even(2, -6.0, 4.0)
    with pytest.raises(ValueError, match="probes: none given"):
        ode_nll(denoiser(MIXTURE), x, grid, torch.empty(0, 1, 2, dtype=torch.float64))
    detached = lambda x_t, logsnr: Denoised(MIXTURE.denoise(x_t, logsnr).detach())  # noqa: E731
    with pytest.raises(ValueError, match=r"denoise: its estimate carries no gradient"):
        ode_nll(detached, x, grid)
