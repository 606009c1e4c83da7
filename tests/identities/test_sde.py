"""The two equations: their coefficients follow from their marginals, and both keep the marginals of any Gaussian."""

import math

import pytest
import torch

from ldm.process.exact import GaussianMixture
from ldm.process.schedule import Cosine, LinearBeta, LinearLogSNR
from ldm.process.sde import VarianceExploding, VariancePreserving, flow_velocity, to_ve, to_vp

SDES = [VariancePreserving, VarianceExploding]
SCHEDULES = [Cosine(), Cosine(shift=0.5, logsnr_min=-9.0), LinearLogSNR(), LinearBeta()]
TIMES = torch.tensor([0.0503, 0.2007, 0.4999, 0.7351, 0.9502], dtype=torch.float64)  # between the nodes of a table
every_sde = pytest.mark.parametrize("kind", SDES)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def derivative(function, t, h=1e-5):
    """Central difference with an error of fourth order."""
    return (8 * (function(t + h) - function(t - h)) - (function(t + 2 * h) - function(t - 2 * h))) / (12 * h)


@every_sde
@every_schedule
def test_drift_and_diffusion_are_those_of_the_marginals(kind, schedule):
    """f = (log m)' x and g^2 = (s^2)' - 2 (log m)' s^2."""
    sde = kind(schedule=schedule)
    log_mean = derivative(lambda t: sde.marginal(t).mean_coefficient.log(), TIMES)
    growth = derivative(lambda t: sde.marginal(t).std ** 2, TIMES)
    x = torch.full((len(TIMES), 2), 1.7, dtype=torch.float64)
    torch.testing.assert_close(sde.drift(x, TIMES), log_mean[:, None] * x, rtol=1e-7, atol=1e-9)
    expected = growth - 2 * log_mean * sde.marginal(TIMES).std ** 2
    torch.testing.assert_close(sde.diffusion_squared(TIMES), expected, rtol=1e-7, atol=1e-9)


@every_sde
@every_schedule
def test_both_have_the_signal_to_noise_ratio_of_the_schedule(kind, schedule):
    mean, std = kind(schedule=schedule).marginal(TIMES)
    torch.testing.assert_close(2 * (mean / std).log(), schedule(TIMES), rtol=1e-12, atol=1e-12)


def noised_gaussian(sde, mean, var, t):
    """Mean, variance and score of x_t for data N(mean, var)."""
    m, s = sde.marginal(t)
    centre, spread = m * mean, m**2 * var + s**2
    return centre, spread, lambda x: -(x - centre[:, None]) / spread[:, None]


@every_sde
@pytest.mark.parametrize(("mean", "var"), [(0.0, 1.0), (1.5, 0.25), (-0.7, 4.0)])
def test_flow_and_reverse_equation_keep_the_marginals_of_a_gaussian(kind, mean, var):
    """Every drift is affine in x, b + k x, so the mean moves by b + k mean and the variance by 2 k V (+- g^2)."""
    sde = kind(schedule=Cosine())
    centre, spread, score = noised_gaussian(sde, mean, var, TIMES)
    mean_rate = derivative(lambda t: noised_gaussian(sde, mean, var, t)[0], TIMES)
    var_rate = derivative(lambda t: noised_gaussian(sde, mean, var, t)[1], TIMES)
    g2 = sde.diffusion_squared(TIMES)
    drifts = {
        "forward": (lambda x: sde.drift(x, TIMES), g2),
        "flow": (lambda x: sde.ode_drift(x, score(x), TIMES), 0 * g2),
        "reverse": (lambda x: sde.reverse_drift(x, score(x), TIMES), -g2),  # run backwards, noise adds as t falls
    }
    for name, (drift, noise) in drifts.items():
        at_mean = drift(centre[:, None])[:, 0]
        slope = drift(centre[:, None] + 1)[:, 0] - at_mean
        torch.testing.assert_close(at_mean, mean_rate, rtol=1e-7, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(2 * slope * spread + noise, var_rate, rtol=1e-7, atol=1e-8)


MIXTURE = GaussianMixture(f64(0.3, 0.7), f64([-1.5, 0.5], [1.0, -0.25]), f64(0.3, 0.1))


@every_sde
def test_score_from_the_denoiser_is_the_gradient_of_the_log_density(kind):
    """One denoiser, of variance-preserving latents, serves both: densities of x_ve differ by a constant only."""
    sde, level = kind(schedule=Cosine()), Cosine()(TIMES)
    x = torch.randn(len(TIMES), 2, dtype=torch.float64) * sde.marginal(TIMES).std[:, None]
    x_vp = to_vp(x, level) if kind is VarianceExploding else x
    found = sde.score(MIXTURE.denoise(x_vp, level), x, TIMES)
    true_vp = MIXTURE.score(x_vp, level)
    true = true_vp * level.sigmoid().sqrt()[:, None] if kind is VarianceExploding else true_vp
    torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-9)


def test_exploding_latents_are_preserving_ones_rescaled():
    (vp, ve), level = (kind(schedule=Cosine()) for kind in SDES), Cosine()(TIMES)
    a = level.sigmoid().sqrt()
    torch.testing.assert_close(ve.marginal(TIMES).std, vp.marginal(TIMES).std / a, rtol=1e-12, atol=0)
    x = torch.randn(len(TIMES), 3, dtype=torch.float64)
    torch.testing.assert_close(to_vp(to_ve(x, level), level), x, rtol=1e-13, atol=0)
    torch.testing.assert_close(to_ve(x, level), x / a[:, None], rtol=1e-13, atol=0)
    assert to_ve(x.float(), level).dtype == torch.float32


def test_the_flow_of_one_process_is_the_rescaled_flow_of_the_other():
    """d(x_vp / a)/dt by the chain rule: the velocity over a, less x a'/a^2."""
    vp, ve, level = VariancePreserving(schedule=Cosine()), VarianceExploding(schedule=Cosine()), Cosine()(TIMES)
    x = torch.randn(len(TIMES), 2, dtype=torch.float64)
    x0_hat, y = MIXTURE.denoise(x, level), to_ve(x, level)
    a = lambda t: Cosine()(t).sigmoid().sqrt()  # noqa: E731
    moved = vp.ode_drift(x, vp.score(x0_hat, x, TIMES), TIMES)
    expected = moved / a(TIMES)[:, None] - x * (derivative(a, TIMES) / a(TIMES) ** 2)[:, None]
    found = ve.ode_drift(y, ve.score(x0_hat, y, TIMES), TIMES)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@every_schedule
def test_flow_over_the_level_is_the_flow_over_time_by_the_slope(schedule):
    sde, level = VariancePreserving(schedule=schedule), schedule(TIMES)
    x = torch.randn(len(TIMES), 2, dtype=torch.float64)
    x0_hat = MIXTURE.denoise(x, level)
    over_time = sde.ode_drift(x, sde.score(x0_hat, x, TIMES), TIMES) / schedule.slope(TIMES)[:, None]
    torch.testing.assert_close(flow_velocity(x0_hat, x, level), over_time, rtol=1e-9, atol=1e-9)


def test_flow_over_the_level_is_finite_at_both_ends():
    x, x0_hat = f64([0.4], [0.4]), f64([1.0], [1.0])
    found = flow_velocity(x0_hat, x, f64(-math.inf, math.inf))
    torch.testing.assert_close(found, f64([0.0], [0.3]), rtol=1e-15, atol=0)
