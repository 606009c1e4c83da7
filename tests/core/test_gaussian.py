"""Gaussians against torch.distributions, and where the closed forms are hard to compute."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions

from ldm.core.gaussian import Gaussian, discretised_log_prob, kl, log_prob, sample, standard_normal_like

LEVELS = 256


def random_gaussian(dtype=torch.float64) -> Gaussian:
    return Gaussian(torch.randn(3, 2, 5, dtype=dtype), torch.randn(3, 2, 5, dtype=dtype).exp())


def theirs(g: Gaussian) -> distributions.Normal:
    return distributions.Normal(g.mean, g.var.sqrt())


def test_kl_and_log_prob_agree_with_torch():
    q, p, x = random_gaussian(), random_gaussian(), torch.randn(3, 2, 5, dtype=torch.float64)
    expected = distributions.kl_divergence(theirs(q), theirs(p)).flatten(1).sum(1)
    torch.testing.assert_close(kl(q, p), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_prob(q, x), theirs(q).log_prob(x).flatten(1).sum(1), rtol=1e-12, atol=0)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_kl_of_any_two_gaussians_is_that_of_diagonal_ones_in_the_right_coordinates(d, seed):
    """The lecture's formula with whole covariances; what makes p standard and q diagonal leaves the divergence."""
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(2, d, d, generator=generator, dtype=torch.float64)
    of_q, of_p = roots @ roots.mT + 0.1 * torch.eye(d, dtype=torch.float64)
    mean_q, mean_p = torch.randn(2, d, generator=generator, dtype=torch.float64)
    gap, inverse = mean_p - mean_q, torch.linalg.inv(of_p)
    lecture = 0.5 * (of_p.logdet() - of_q.logdet() - d + (inverse @ of_q).trace() + gap @ inverse @ gap)
    root = torch.linalg.cholesky(of_p)
    whitened = torch.linalg.solve_triangular(root, of_q, upper=False)
    whitened = torch.linalg.solve_triangular(root, whitened.mT, upper=False)
    variances, turn = torch.linalg.eigh(whitened)
    moved = turn.mT @ torch.linalg.solve_triangular(root, -gap[:, None], upper=False)
    found = kl(Gaussian(moved.mT, variances[None]), standard_normal_like(moved.mT))[0]
    torch.testing.assert_close(found, lecture, rtol=1e-11, atol=1e-12)
    theirs = [distributions.MultivariateNormal(m, v) for m, v in ((mean_q, of_q), (mean_p, of_p))]
    torch.testing.assert_close(lecture, distributions.kl_divergence(*theirs), rtol=1e-11, atol=1e-12)


def test_kl_counts_every_axis_of_a_broadcast_variance():
    q = Gaussian(torch.zeros(2, 3, 4), torch.full((2, 1, 1), 2.0))
    p = Gaussian(torch.zeros(2, 3, 4), torch.ones(2, 1, 1))
    torch.testing.assert_close(kl(q, p), 12 * 0.5 * (2.0 - 1.0 - torch.tensor(2.0).log()).expand(2))


@given(st.floats(-30.0, 20.0))
def test_kl_and_its_gradient_hold_over_the_range_of_log_variances(value):
    """In float32, for every log-variance that the encoder may give: 1/2 (exp(l) - 1 - l)."""
    log_var = torch.tensor([[value]], requires_grad=True)
    found = kl(Gaussian(torch.zeros(1, 1), log_var.exp()), standard_normal_like(torch.zeros(1, 1)))
    exact = 0.5 * (log_var.detach().double().expm1() - log_var.detach().double())
    torch.testing.assert_close(found.detach().double(), exact[0], rtol=2e-5, atol=1e-7)
    (slope,) = torch.autograd.grad(found.sum(), log_var)
    torch.testing.assert_close(slope.double(), 0.5 * log_var.detach().double().expm1(), rtol=1e-5, atol=1e-6)


def test_kl_of_nearly_equal_variances_does_not_cancel():
    one = torch.ones(1, 1)
    relative = torch.tensor(2.0**-12)  # exact in float32
    found = kl(Gaussian(0 * one, one + relative), Gaussian(0 * one, one))
    torch.testing.assert_close(found, (relative**2 / 4).reshape(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("mean", [-1.3, -1.0, -0.2, 0.0, 0.999, 1.2])
@pytest.mark.parametrize("std", [1e-3, 0.05, 1.0, 30.0])
def test_the_probabilities_of_all_levels_sum_to_one(mean, std):
    x = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)[:, None]
    g = Gaussian(torch.full_like(x, mean), torch.full_like(x, std**2))
    total = discretised_log_prob(g, x, LEVELS).logsumexp(0)
    assert abs(float(total)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discretised_log_prob_is_symmetric_and_exact_in_the_far_tails(dtype):
    x = torch.tensor([-1.0, -0.5, 0.0, 1.0], dtype=dtype)[:, None]
    mean, var = torch.tensor([[0.9], [0.8], [-0.9], [-0.9]], dtype=dtype), torch.full((4, 1), 1e-3, dtype=dtype)
    found = discretised_log_prob(Gaussian(mean, var), x, LEVELS)
    torch.testing.assert_close(found, discretised_log_prob(Gaussian(-mean, var), -x, LEVELS))
    edge = torch.special.log_ndtr(torch.tensor((-1 + 1 / 255 - 0.9) / 1e-3**0.5, dtype=torch.float64))
    torch.testing.assert_close(found[[0, 3]].double(), edge.expand(2), rtol=1e-4, atol=0)
    assert edge < -1000


def test_sample_moves_and_scales_the_noise():
    g = Gaussian(torch.tensor([[2.0, -1.0]]), torch.tensor([[9.0, 0.0]]))
    assert sample(g, torch.tensor([[-1.0, 5.0]])).tolist() == [[-1.0, -1.0]]
