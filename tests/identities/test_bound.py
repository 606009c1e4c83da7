"""The evidence lower bound against Kullback-Leibler divergences, the lecture's forms and a world solved exactly."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.gaussian import Gaussian, kl
from ldm.process.conditionals import q_posterior, q_sample
from ldm.process.elbo import ElboTerms, denoise_term, first_decoder, prior_term, recon_term
from ldm.process.exact import GaussianMixture
from ldm.process.prediction import from_x0, target
from ldm.process.schedule import LinearBeta, ScaledLinearBeta

LEVEL = st.floats(-10, 10)
GAP = st.floats(1e-2, 15)
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of a unit normal, nats


def level(*values):
    return torch.tensor(values, dtype=torch.float64)


def normals(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def squared(x):
    return x.square().flatten(1).sum(1)


@given(LEVEL, GAP)
def test_denoise_term_is_the_divergence_of_the_two_posteriors(logsnr, gap):
    s, t = level(logsnr), level(logsnr - gap)
    x0, x0_hat, x_t = normals(1, 2, 3), normals(1, 2, 3), normals(1, 2, 3)
    q, p = q_posterior(x0, x_t, s, t), q_posterior(x0_hat, x_t, s, t)
    term = denoise_term(x0, x0_hat, s, t)
    assert torch.allclose(term, squared(q.mean - p.mean) / (2 * q.var.flatten()), rtol=1e-10, atol=1e-14)
    assert torch.allclose(term, denoise_term(x0, x0_hat, s, t, q.var), rtol=1e-10, atol=1e-14)
    var = torch.rand(1, 2, 3, dtype=torch.float64) + 0.1
    assert torch.allclose(denoise_term(x0, x0_hat, s, t, var), kl(q, Gaussian(p.mean, var)), rtol=1e-10, atol=1e-14)


@given(LEVEL, GAP)
def test_the_forms_of_the_term_agree(logsnr, gap):
    """Half the gain in SNR times the x0 error; half expm1 of the gain in log-SNR times the noise error; and so on."""
    s, t = level(logsnr), level(logsnr - gap)
    x0, eps, x0_hat = normals(1, 5), normals(1, 5), normals(1, 5)
    x_t = q_sample(x0, eps, t)
    error = {k: squared(target(k, x0, eps, t) - from_x0(k, x0_hat, x_t, t)) for k in ("eps", "v", "score")}
    term = denoise_term(x0, x0_hat, s, t)
    by_snr = 0.5 * (s.exp() - t.exp())
    assert torch.allclose(term, by_snr * squared(x0 - x0_hat), rtol=1e-11, atol=1e-14)
    assert torch.allclose(term, 0.5 * torch.expm1(s - t) * error["eps"], rtol=1e-10, atol=1e-14)
    assert torch.allclose(term, by_snr * (-t).sigmoid() * error["v"], rtol=1e-10, atol=1e-14)
    assert torch.allclose(term, 0.5 * torch.expm1(s - t) * (-t).sigmoid() * error["score"], rtol=1e-10, atol=1e-14)


def test_the_lectures_coefficients_on_every_step_of_the_table():
    """Interpretations I (clean latent), II (noise) and III (score), with beta_t in the place of 1 - alpha_t."""
    table, n = ScaledLinearBeta(), 999
    beta = torch.tensor(table.beta_table(), dtype=torch.float64)
    bar = (1 - beta).cumprod(0)
    levels = torch.tensor(table.nodes()[1:], dtype=torch.float64)
    s, t, bar_s, bar_t, beta = levels[:-1], levels[1:], bar[:-1], bar[1:], beta[1:]
    var_q = beta * (1 - bar_s) / (1 - bar_t)
    x0, eps, x0_hat = normals(n, 3), normals(n, 3), normals(n, 3)
    x_t = q_sample(x0, eps, t)
    error = {k: squared(target(k, x0, eps, t) - from_x0(k, x0_hat, x_t, t)) for k in ("x0", "eps", "score")}
    term = denoise_term(x0, x0_hat, s, t)
    assert torch.allclose(term, bar_s * beta**2 / (1 - bar_t) ** 2 / (2 * var_q) * error["x0"], rtol=1e-10, atol=1e-14)
    assert torch.allclose(
        term, beta**2 / ((1 - bar_t) * (1 - beta)) / (2 * var_q) * error["eps"], rtol=1e-10, atol=1e-14
    )
    assert torch.allclose(term, beta**2 / (1 - beta) / (2 * var_q) * error["score"], rtol=1e-10, atol=1e-14)


def test_prior_term_vanishes_at_pure_noise_and_is_small_for_stable_diffusion():
    assert prior_term(normals(2, 3), level(-math.inf, -math.inf)).tolist() == [0.0, 0.0]
    unit = torch.ones(1, 1, dtype=torch.float64)  # the term is quadratic: this is its mean over unit-variance data
    assert prior_term(unit, level(ScaledLinearBeta().nodes()[-1])).item() == pytest.approx(0.00234, abs=5e-6)


@given(LEVEL)
def test_first_decoder_is_the_likelihood_read_backwards(logsnr):
    x0, eps, first = normals(1, 4), normals(1, 4), level(logsnr)
    recon = recon_term(x0, first_decoder(q_sample(x0, eps, first), first))
    expected = 0.5 * (squared(eps) + 4 * (math.log(2 * math.pi) - first))
    assert torch.allclose(recon, expected, rtol=1e-10, atol=1e-12)


def test_a_discretised_decoder_gives_probabilities_that_sum_to_one():
    pixels = torch.linspace(-1, 1, 256, dtype=torch.float64).unsqueeze(1)
    decoder = Gaussian(torch.full_like(pixels, 0.3), torch.full_like(pixels, 0.2))
    assert torch.exp(-recon_term(pixels, decoder, levels=256)).sum().item() == pytest.approx(1, abs=1e-12)


def test_total_and_bits():
    terms = ElboTerms(recon=level(1.0), prior=level(2.0), denoise=level(5.0))
    assert terms.total.item() == 8.0
    assert terms.bits_per_dim(4).item() == pytest.approx(2 / math.log(2), rel=1e-15)


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_with_the_true_reverse_process_the_bound_is_the_likelihood(data_var, steps):
    """For Gaussian data p(x_s | x_t) can be exact: then all that is lost is KL(q(x_1) || N(0, I)).

    Four points (x_0, eps) = (+-std, +-1) carry the first two moments, all that the quadratic terms see.
    """
    x0 = math.sqrt(data_var) * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
    eps = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    ones = torch.ones(1, dtype=torch.float64)
    world = GaussianMixture(w=ones, mu=torch.zeros(1, 1, dtype=torch.float64), var=data_var * ones)
    levels = LinearBeta(steps=steps, beta_first=0.01, beta_last=0.5)(torch.arange(1, steps + 1).double() / steps)

    def estimate(t):
        x_t = q_sample(x0, eps, t)
        return world.denoise(x_t, t), world.variance(x_t, t)

    total = prior_term(x0, levels[-1:].expand(4)) + recon_term(x0, Gaussian(*estimate(levels[:1].expand(4))))
    for s, t in zip(levels[:-1, None], levels[1:, None], strict=True):
        x0_hat, x0_var = estimate(t.expand(4))
        spread = q_posterior(torch.ones(1, 1).double(), torch.zeros(1, 1).double(), s, t)  # d x_s / d x_0, and beta
        total = total + denoise_term(x0, x0_hat, s.expand(4), t.expand(4), spread.var + spread.mean**2 * x0_var)
    marginal = levels[-1].sigmoid() * (data_var - 1)  # variance of q(x_1), less one
    lost = 0.5 * (marginal - torch.log1p(marginal))
    expected = ENTROPY + 0.5 * math.log(data_var) + lost
    assert total.mean().item() == pytest.approx(expected.item(), rel=1e-12)
