"""Predictions of noise, clean latent, score and v stand for one another exactly."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.process.conditionals import q_sample
from ldm.process.prediction import EDM, VP, Kind, from_x0, target, to_x0

KINDS = get_args(Kind)
LEVEL = st.floats(-12, 12)


def world(logsnr):
    x0, eps = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    level = torch.tensor([logsnr, logsnr / 2], dtype=torch.float64)
    return x0, eps, level, q_sample(x0, eps, level)


@pytest.mark.parametrize("kind", KINDS)
@given(LEVEL)
def test_a_perfect_prediction_returns_the_data(kind, logsnr):
    x0, eps, level, x_t = world(logsnr)
    tolerance = 1e-14 * (1 + math.exp(-logsnr / 2))  # rounding of x_t, divided by the signal's amplitude
    assert torch.allclose(to_x0(kind, target(kind, x0, eps, level), x_t, level), x0, rtol=1e-12, atol=10 * tolerance)


@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(-8, 8))
def test_from_x0_undoes_to_x0_for_any_output(kind, logsnr):
    _, out, level, x_t = world(logsnr)
    back = from_x0(kind, to_x0(kind, out, x_t, level), x_t, level)
    assert torch.allclose(back, out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_any_kind_converts_to_any_other(source, other):
    x0, eps, level, x_t = world(1.5)
    converted = from_x0(other, to_x0(source, target(source, x0, eps, level), x_t, level), x_t, level)
    assert torch.allclose(converted, target(other, x0, eps, level), rtol=1e-12, atol=1e-12)


def test_score_is_the_gradient_of_the_log_density():
    x0, eps, level, x_t = world(-0.7)
    x = x_t.clone().requires_grad_()
    axes = (slice(None), None, None, None)
    mean, var = level.sigmoid().sqrt()[axes] * x0, (-level).sigmoid()[axes]
    (gradient,) = torch.autograd.grad((-0.5 * (x - mean) ** 2 / var).sum(), x)
    assert torch.allclose(target("score", x0, eps, level), gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["v", "x0"])
def test_pure_noise_is_no_obstacle_to_v_and_x0(kind):
    x0, eps = torch.randn(1, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    level = torch.tensor([-math.inf], dtype=torch.float64)
    assert torch.equal(to_x0(kind, target(kind, x0, eps, level), q_sample(x0, eps, level), level), x0)


def test_vp_leaves_the_network_alone():
    c = VP()(torch.tensor([-3.0, 9.0]))
    assert (c.c_in == 1).all() and (c.c_skip == 0).all() and (c.c_out == 1).all()


@given(LEVEL, st.floats(0.1, 3))
def test_edm_is_the_published_wrapper_in_other_coordinates(logsnr, sigma_data):
    """c_skip x + c_out F(c_in x) with Karras' coefficients at x = x_t / sqrt(alpha_bar)."""
    level = torch.tensor([logsnr], dtype=torch.float64)
    c, sigma, a = EDM(sigma_data=sigma_data)(level), torch.exp(-level / 2), level.sigmoid().sqrt()
    total = sigma**2 + sigma_data**2
    assert torch.allclose(c.c_in, total.rsqrt() / a, rtol=1e-12, atol=1e-14)
    assert torch.allclose(c.c_skip, sigma_data**2 / total / a, rtol=1e-12, atol=1e-14)
    assert torch.allclose(c.c_out, sigma * sigma_data * total.rsqrt(), rtol=1e-12, atol=1e-14)


def test_edm_asks_a_unit_variance_of_the_network():
    """Input c_in x_t and target (x_0 - c_skip x_t) / c_out have unit variance for data of sigma_data."""
    level, s = torch.linspace(-20, 20, 41, dtype=torch.float64), 0.5
    c, a, sigma = EDM(sigma_data=s)(level), level.sigmoid().sqrt(), (-level).sigmoid().sqrt()
    assert torch.allclose(c.c_in**2 * (a**2 * s**2 + sigma**2), torch.ones_like(level))
    variance = ((1 - c.c_skip * a) ** 2 * s**2 + (c.c_skip * sigma) ** 2) / c.c_out**2
    assert torch.allclose(variance, torch.ones_like(level), rtol=1e-5)  # 1 - c_skip a cancels in clean levels


def test_edm_of_unit_data_predicts_minus_v():
    x0, eps, level, x_t = world(2.0)
    c = EDM(sigma_data=1.0)(level)
    wrapped = c.c_skip[:, None, None, None] * x_t - c.c_out[:, None, None, None] * target("v", x0, eps, level)
    assert torch.allclose(wrapped, x0, rtol=1e-12, atol=1e-12)
