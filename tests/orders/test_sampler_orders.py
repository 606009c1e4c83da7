"""How fast each sampler approaches the exact answer, on data whose denoiser is known."""

import math

import pytest
import torch

from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid
from ldm.samplers import SAMPLERS, ancestral, ddim

ORDER = {  # of the deterministic samplers, in the sample itself
    ("ddim", ()): 1,
    ("euler", ()): 1,
    ("dpm_solver", (("order", 1),)): 1,
    ("dpm_solver", ()): 2,
    ("dpm_solver", (("order", 3),)): 3,
    ("heun", ()): 2,
    ("unipc", (("correct", False),)): 2,
    ("unipc", ()): 3,
    ("unipc", (("order", 3), ("correct", False))): 3,
    ("unipc", (("order", 3),)): 4,
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


EARLY = -12.0  # nats; x0_hat hardly moves here, so that a first step of order 1 costs nothing


def even(steps, first=-6.0, last=6.0):
    return TimeGrid(torch.linspace(first, last, steps + 1, dtype=torch.float64))


def denoiser(data):
    return lambda x_t, logsnr: Denoised(data.denoise(x_t, logsnr))


def drawn(name, options, data, x, steps):
    return SAMPLERS[name](denoiser(data), x, even(steps, EARLY), **dict(options))


def gaussian(mean, var):
    return GaussianMixture(f64(1.0), f64([mean]), f64(var))


MIXTURE = GaussianMixture(f64(0.3, 0.7), f64([-1.5, 0.5], [1.0, -0.25]), f64(0.3, 0.1))
START = f64([0.7, -0.3], [-1.2, 0.9], [0.1, 0.2], [2.0, -1.0])


def flow_of_gaussian(x_t, mean, var, logsnr_t, logsnr_s):
    """Exact solution of the probability flow: distance from the mean in standard deviations stays the same."""

    def moments(logsnr):
        alpha_bar = 1 / (1 + math.exp(-logsnr))
        return math.sqrt(alpha_bar) * mean, math.sqrt(alpha_bar * var + 1 - alpha_bar)

    (mean_t, std_t), (mean_s, std_s) = moments(logsnr_t), moments(logsnr_s)
    return mean_s + std_s / std_t * (x_t - mean_t)


def slope(steps, errors):
    """Minus the exponent of a power law between the last two points."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


SMOOTH = [key for key, order in ORDER.items() if order != 3 or key == ("unipc", ())]  # others' error changes sign here


@pytest.mark.parametrize(("name", "options"), SMOOTH)
@pytest.mark.parametrize(("mean", "var"), [(0.0, 4.0), (1.5, 0.25)])
def test_order_on_a_gaussian_against_the_closed_form(name, options, mean, var):
    steps, order = [80, 160, 320], ORDER[name, options]
    exact = flow_of_gaussian(START[:, :1], mean, var, EARLY, 6.0)
    ends = [drawn(name, options, gaussian(mean, var), START[:, :1], n) for n in steps]
    assert slope(steps, [(end - exact).abs().max().item() for end in ends]) == pytest.approx(order, abs=0.1)


@pytest.fixture(scope="module")
def exact():
    """The flow of the mixture, by a grid so fine that its error (1e-11) does not count."""
    return SAMPLERS["unipc"](denoiser(MIXTURE), START, even(1500, EARLY), order=3)


@pytest.mark.parametrize(("name", "options"), ORDER)
def test_order_on_a_mixture_against_a_fine_grid(name, options, exact):
    steps, order = [80, 160, 320], ORDER[name, options]
    ends = [drawn(name, options, MIXTURE, START, n) for n in steps]
    assert slope(steps, [(end - exact).abs().max().item() for end in ends]) == pytest.approx(order, abs=0.2)


def test_second_order_pays_at_twenty_steps(exact):
    first, second = (drawn(name, (), MIXTURE, START, 20) for name in ("ddim", "dpm_solver"))
    assert (second - exact).norm() < 0.2 * (first - exact).norm()


def moments_after(step, data, grid):
    """Mean and variance of the samples, exactly: for Gaussian data every step is affine in x_t and in the noise."""
    mean, var = f64([0.0]), f64([1.0])
    for logsnr_t, logsnr_s in ((t.item(), s.item()) for t, s in grid.steps()):

        def move(x, z, t=logsnr_t, s=logsnr_s):
            return step(x, data.denoise(x, f64(t)), t, s, z=z)

        still, one = f64([0.0]), f64([1.0])
        next_mean = move(mean, still)
        gain, spread = move(mean + 1, still) - next_mean, move(mean, one) - next_mean
        mean, var = next_mean, gain**2 * var + spread**2
    return mean.item(), var.item()


def marginal(mean, var, logsnr):
    alpha_bar = 1 / (1 + math.exp(-logsnr))
    return math.sqrt(alpha_bar) * mean, alpha_bar * var + 1 - alpha_bar


@pytest.mark.parametrize("variance", ["posterior", "upper"])
@pytest.mark.parametrize(("mean", "var"), [(0.0, 4.0), (-1.0, 0.25), (0.5, 1.0)])
def test_ancestral_mean_of_a_gaussian_is_exact_and_its_variance_of_first_order(variance, mean, var):
    def step(*args, z):
        return ancestral.step(*args, variance=variance, z=z)

    steps = [100, 200, 400]
    found = [moments_after(step, gaussian(mean, var), even(n, first=-25.0)) for n in steps]
    true_mean, true_var = marginal(mean, var, 6.0)
    assert [m for m, _ in found] == pytest.approx([true_mean] * 3, abs=1e-9)
    errors = [abs(v - true_var) for _, v in found]
    assert errors[-1] < 0.15 * true_var
    if max(errors) > 1e-6:  # else exact on any grid, see below
        assert slope(steps, errors) == pytest.approx(1, abs=0.1)


IRREGULAR = TimeGrid(f64(-40.0, -7.0, -2.0, 0.5, 0.75, 4.0))


def test_upper_variance_is_exact_on_any_grid_for_standard_normal_data():
    def step(*args, z):
        return ancestral.step(*args, variance="upper", z=z)

    assert moments_after(step, gaussian(0.0, 1.0), IRREGULAR) == pytest.approx((0.0, 1.0), abs=1e-12)


def test_posterior_variance_is_exact_on_any_grid_for_data_that_is_one_point():
    found = moments_after(ancestral.step, gaussian(0.8, 1e-14), IRREGULAR)
    assert found == pytest.approx(marginal(0.8, 0.0, 4.0), abs=1e-9)


def test_inversion_error_of_a_round_trip_falls_at_second_order():
    steps, errors = [100, 200, 400], []
    for grid in map(even, steps):
        noise = ddim.invert(denoiser(MIXTURE), START, grid)
        errors.append((ddim.sample(denoiser(MIXTURE), noise, grid) - START).abs().max().item())
    assert slope(steps, errors) == pytest.approx(2, abs=0.15) and errors[-1] < 1e-3
