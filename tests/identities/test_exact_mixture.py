"""The reference denoiser against automatic differentiation, numerical integration and one-Gaussian closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.gaussian import Gaussian, log_prob
from ldm.core.rng import NoiseStream
from ldm.process.exact import GaussianMixture

LEVEL = st.floats(-12, 12)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def mixture(dims=(2,)):
    mu = torch.stack([torch.full(dims, m, dtype=torch.float64) for m in (-2.0, 0.5, 3.0)])
    return GaussianMixture(w=doubles(0.2, 0.5, 0.3), mu=mu, var=doubles(0.1, 1.0, 0.4))


@given(LEVEL)
def test_score_is_the_gradient_of_log_prob_and_tweedie_gives_the_denoiser(logsnr):
    world = mixture((3, 2, 2))
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64).mul(2).requires_grad_()
    level = torch.full((4,), logsnr, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(world.log_prob(x, level).sum(), x)
    score = world.score(x, level)
    assert torch.allclose(score, gradient, rtol=1e-10, atol=1e-10)
    a, var = level.sigmoid().sqrt()[0], (-level).sigmoid()[0]
    assert torch.allclose(a * world.denoise(x, level), x + var * score, rtol=1e-10, atol=1e-10)


@given(st.floats(-8, 8))
def test_variance_is_the_jacobian_of_the_denoiser(logsnr):
    """Var[x_0 | x_t] = sigma^2 / sqrt(alpha_bar) d E[x_0 | x_t] / d x_t, the second order of Tweedie's formula."""
    world, level = mixture((1,)), torch.full((5,), logsnr, dtype=torch.float64)
    x = torch.linspace(-3, 3, 5, dtype=torch.float64).unsqueeze(1).requires_grad_()
    (slope,) = torch.autograd.grad(world.denoise(x, level).sum(), x)
    expected = (-level).sigmoid()[0] / level.sigmoid().sqrt()[0] * slope
    assert torch.allclose(world.variance(x, level), expected, rtol=1e-9, atol=1e-12)


@given(st.floats(-6, 4))
def test_density_and_denoiser_by_numerical_integration(logsnr):
    world = mixture((1,))
    x0 = torch.linspace(-12, 14, 4001, dtype=torch.float64).unsqueeze(1)
    clean = torch.full((len(x0),), math.inf, dtype=torch.float64)
    level = doubles(logsnr)
    x_t = doubles(0.8).unsqueeze(1)
    likelihood = log_prob(Gaussian(level.sigmoid().sqrt() * x0, (-level).sigmoid()), x_t.expand_as(x0))
    joint = torch.exp(world.log_prob(x0, clean) + likelihood)
    evidence = torch.trapezoid(joint, x0[:, 0])
    assert world.log_prob(x_t, level).item() == pytest.approx(evidence.log().item(), abs=1e-10)
    mean = torch.trapezoid(joint * x0[:, 0], x0[:, 0]) / evidence
    assert world.denoise(x_t, level).item() == pytest.approx(mean.item(), abs=1e-9)


def test_both_ends_of_the_axis():
    world, x = mixture((2,)), torch.randn(3, 2, dtype=torch.float64)
    clean, noise = torch.full((3,), math.inf, dtype=torch.float64), torch.full((3,), -math.inf, dtype=torch.float64)
    assert torch.allclose(world.denoise(x, clean), x, rtol=1e-12, atol=1e-12)
    assert torch.allclose(world.variance(x, clean), torch.zeros_like(x), atol=1e-24)
    mean = (world.w.unsqueeze(1) * world.mu).sum(0)
    assert torch.allclose(world.denoise(x, noise), mean.expand(3, 2), rtol=1e-12, atol=1e-14)
    assert torch.allclose(world.log_prob(x, noise), log_prob(Gaussian(torch.zeros_like(x), torch.ones_like(x)), x))


def test_one_component_is_the_wiener_filter():
    var = torch.rand(1, 4, dtype=torch.float64) + 0.1
    world = GaussianMixture(w=doubles(1.0), mu=torch.zeros(1, 4, dtype=torch.float64), var=var)
    level, x = doubles(0.3, -2.0), torch.randn(2, 4, dtype=torch.float64)
    ab = level.sigmoid().unsqueeze(1)
    assert torch.allclose(world.denoise(x, level), ab.sqrt() * var / (ab * var + 1 - ab) * x, rtol=1e-12, atol=1e-14)
    assert torch.allclose(world.variance(x, level), var * (1 - ab) / (ab * var + 1 - ab), rtol=1e-12, atol=1e-14)


def test_samples_have_the_mixtures_moments():
    world, noise, n = mixture((1,)), NoiseStream([7]), 200_000
    x = world.sample(noise.uniform((1, n))[0].double(), noise.normal((1, n))[0].double().unsqueeze(1))
    mean = (world.w * world.mu[:, 0]).sum()
    var = (world.w * (world.var + world.mu[:, 0] ** 2)).sum() - mean**2
    assert x.mean().item() == pytest.approx(mean.item(), abs=5 * math.sqrt(var / n))
    assert x.var().item() == pytest.approx(var.item(), rel=0.02)


@pytest.mark.parametrize(
    ("w", "var", "message"),
    [([0.5, 0.6], [1.0, 1.0], "sum to 1"), ([1.5, -0.5], [1.0, 1.0], "positive"), ([0.5, 0.5], [1.0], "disagree")],
)
def test_bad_mixtures_are_refused(w, var, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(w=doubles(*w), mu=torch.zeros(2, 3, dtype=torch.float64), var=doubles(*var))
