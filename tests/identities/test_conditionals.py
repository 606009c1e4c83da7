"""The forward process against Bayes' rule, composition and the textbook's discrete formulas, in float64."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.gaussian import Gaussian, log_prob
from ldm.process.conditionals import q_posterior, q_sample, q_step
from ldm.process.schedule import ScaledLinearBeta

LEVEL = st.floats(-15, 15)
GAP = st.floats(1e-3, 20)


def level(*values):
    return torch.tensor(values, dtype=torch.float64)


def normals(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def q_marginal(x0, logsnr):
    """q(x_t | x_0) as a distribution."""
    zeros = torch.zeros_like(x0)
    return Gaussian(q_sample(x0, zeros, logsnr), q_sample(zeros, torch.ones_like(x0), logsnr) ** 2)


@given(LEVEL)
def test_the_process_preserves_unit_variance(logsnr):
    for cleaner in (math.inf, logsnr + 3.0):
        g = q_step(torch.ones(1, 1, dtype=torch.float64), level(cleaner), level(logsnr))
        assert math.isclose((g.mean**2 + g.var).item(), 1, rel_tol=1e-14)


def test_both_ends_are_exact():
    x0, eps = normals(1, 3), normals(1, 3)
    assert torch.equal(q_sample(x0, eps, level(math.inf)), x0)
    assert torch.equal(q_sample(x0, eps, level(-math.inf)), eps)
    clean = q_posterior(x0, eps, level(math.inf), level(-1.0))
    assert torch.equal(clean.mean, x0) and (clean.var == 0).all()
    from_noise, expected = q_posterior(x0, eps, level(0.5), level(-math.inf)), q_marginal(x0, level(0.5))
    assert torch.allclose(from_noise.mean, expected.mean, rtol=1e-15, atol=1e-14) and torch.allclose(
        from_noise.var, expected.var
    )


@given(LEVEL, GAP)
def test_steps_from_clean_data_are_the_marginal(logsnr, gap):
    """q(x_t | x_s = x_0) is q(x_t | x_0) when s is clean data."""
    x0 = normals(1, 4)
    step, marginal = q_step(x0, level(math.inf), level(logsnr)), q_marginal(x0, level(logsnr))
    assert torch.allclose(step.mean, marginal.mean, rtol=1e-14, atol=1e-14)
    assert torch.allclose(step.var.expand_as(x0), marginal.var, rtol=1e-14, atol=1e-14)


@given(LEVEL, GAP, GAP)
def test_two_steps_compose_to_one(logsnr, gap_1, gap_2):
    """Chapman-Kolmogorov: the integral of q(x_u | x_t) q(x_t | x_s) over x_t is q(x_u | x_s)."""
    s, t, u = level(logsnr), level(logsnr - gap_1), level(logsnr - gap_1 - gap_2)
    x_s = normals(1, 4)
    first, direct = q_step(x_s, s, t), q_step(x_s, s, u)
    second = q_step(first.mean, t, u)
    gain = q_step(torch.ones_like(x_s), t, u).mean
    assert torch.allclose(second.mean, direct.mean, rtol=1e-12, atol=1e-14)
    assert torch.allclose(second.var + gain**2 * first.var, direct.var.expand_as(x_s), rtol=1e-11, atol=1e-14)


def test_a_thousand_steps_compose_to_q_sample():
    schedule = ScaledLinearBeta()
    levels = schedule(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    x0 = normals(1, 4)
    mean, var, before = x0, torch.zeros(1, 1, dtype=torch.float64), level(math.inf)
    for logsnr in levels:
        after = logsnr.reshape(1)
        gain = q_step(torch.ones(1, 1, dtype=torch.float64), before, after).mean
        step = q_step(mean, before, after)
        mean, var, before = step.mean, step.var + gain**2 * var, after
    marginal = q_marginal(x0, levels[-1:])
    assert torch.allclose(mean, marginal.mean, rtol=1e-11, atol=1e-14)
    assert torch.allclose(var.expand_as(x0), marginal.var, rtol=1e-11, atol=1e-14)


def test_the_variance_of_one_step_is_beta():
    schedule = ScaledLinearBeta()
    levels = torch.tensor([math.inf, *schedule.nodes()[1:]], dtype=torch.float64)
    step = q_step(torch.zeros(1000, 1, dtype=torch.float64), levels[:-1], levels[1:])
    assert torch.allclose(
        step.var.flatten(), torch.tensor(schedule.beta_table(), dtype=torch.float64), rtol=1e-11, atol=1e-14
    )


@given(LEVEL, GAP)
def test_posterior_is_bayes_rule(logsnr, gap):
    """log q(x_s | x_t, x_0) = log q(x_t | x_s) + log q(x_s | x_0) - log q(x_t | x_0) at any x_s."""
    s, t = level(logsnr), level(logsnr - gap)
    x0, x_t = normals(1, 5), normals(1, 5)
    posterior = q_posterior(x0, x_t, s, t)
    x_s = posterior.mean + posterior.var.sqrt() * normals(1, 5)
    joint = [log_prob(q_step(x_s, s, t), x_t), log_prob(q_marginal(x0, s), x_s), -log_prob(q_marginal(x0, t), x_t)]
    size = max(abs(term.item()) for term in joint)
    assert torch.allclose(log_prob(posterior, x_s), sum(joint), rtol=0, atol=1e-11 * (1 + size))


@given(LEVEL, GAP)
def test_averaging_the_posterior_over_x_t_gives_the_marginal(logsnr, gap):
    s, t = level(logsnr), level(logsnr - gap)
    zeros, ones, x0 = (torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64), normals(1, 1))
    slope = q_posterior(zeros, ones, s, t).mean
    mean = q_posterior(x0, q_marginal(x0, t).mean, s, t).mean
    var = q_posterior(zeros, zeros, s, t).var + slope**2 * (-t).sigmoid()
    assert torch.allclose(mean, q_marginal(x0, s).mean, rtol=1e-12, atol=1e-14)
    assert torch.allclose(var, q_marginal(x0, s).var, rtol=1e-12, atol=1e-14)


def test_posterior_is_the_lectures_formula_on_every_step_of_the_table():
    betas = torch.tensor(ScaledLinearBeta().beta_table(), dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    levels = torch.tensor(ScaledLinearBeta().nodes()[1:], dtype=torch.float64)
    x0, x_t = normals(999, 3), normals(999, 3)
    g = q_posterior(x0, x_t, levels[:-1], levels[1:])
    ab_s, ab_t, beta = (v.unsqueeze(1) for v in (alpha_bar[:-1], alpha_bar[1:], betas[1:]))
    mean = ((1 - beta).sqrt() * (1 - ab_s) * x_t + ab_s.sqrt() * beta * x0) / (1 - ab_t)
    assert torch.allclose(g.mean, mean, rtol=0, atol=1e-11)
    assert torch.allclose(g.var, beta * (1 - ab_s) / (1 - ab_t), rtol=1e-10, atol=1e-14)


def test_levels_are_per_image():
    x0, x_t = normals(2, 1, 2, 2), normals(2, 1, 2, 2)
    s, t = level(3.0, -1.0), level(1.0, -4.0)
    both = q_posterior(x0, x_t, s, t)
    for i in range(2):
        one = q_posterior(x0[i : i + 1], x_t[i : i + 1], s[i : i + 1], t[i : i + 1])
        assert torch.equal(both.mean[i : i + 1], one.mean) and torch.equal(both.var[i : i + 1], one.var)
