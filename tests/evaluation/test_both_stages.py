"""Bits per dimension through both stages, where the likelihood is known: a linear Gaussian autoencoder; pixels."""

import math
from itertools import product

import pytest
import torch

from ldm.core.gaussian import Gaussian, log_prob, sample
from ldm.evaluation.bpd import PictureBound, bits_rows, joined, stage_one
from ldm.evaluation.paths import path_terms
from ldm.evaluation.pixels import PixelLikelihood, measured_scale
from ldm.process.elbo import ElboTerms
from ldm.process.schedule import LinearLogSNR


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def linear_autoencoder():
    """x = W z + noise with orthogonal columns: the posterior is diagonal, and everything is Gaussian."""
    w = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    w = w * doubles(1.5, 0.4)
    var = 0.09

    def decode(z):
        return (z @ w.T).reshape(-1, 1, 2, 3)

    def posterior(image):
        precision = 1 + (w**2).sum(0) / var
        mean = image.flatten(1) @ w / var / precision
        return Gaussian(mean, (1 / precision).expand_as(mean))

    marginal = torch.distributions.MultivariateNormal(torch.zeros(6).double(), w @ w.T + var * torch.eye(6).double())
    return decode, posterior, var**0.5, marginal


def test_for_a_linear_gaussian_autoencoder_with_the_true_posterior_the_bound_is_the_likelihood():
    """With E over q taken exactly by four points, for every single picture."""
    decode, posterior, scale, marginal = linear_autoencoder()
    likelihood = PixelLikelihood(kind="gaussian", scale=scale, levels=None)
    images = marginal.sample((7,)).reshape(7, 1, 2, 3)
    totals = []
    for signs in product((-1.0, 1.0), repeat=2):
        q = posterior(images)
        z = sample(q, doubles(*signs).expand(7, 2))
        one = stage_one(decode, images, q, z, likelihood)
        zeros = torch.zeros(7, dtype=torch.float64)
        prior = -log_prob(Gaussian(torch.zeros_like(z), torch.ones_like(z)), z)
        totals.append(PictureBound(6, one.pixels, one.log_q, ElboTerms(zeros, prior, zeros)).total)
    assert torch.allclose(torch.stack(totals).mean(0), -marginal.log_prob(images.flatten(1)), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 60])
def test_both_stages_with_the_true_posterior_and_the_true_reverse_chain_give_the_likelihood_of_the_picture(steps):
    """Its latents are N(0, I), whose best denoiser is sqrt(alpha_bar) x_t; all is quadratic in z."""
    decode, posterior, scale, marginal = linear_autoencoder()
    likelihood = PixelLikelihood(kind="gaussian", scale=scale, levels=None)
    images = marginal.sample((7,)).reshape(7, 1, 2, 3)
    levels = LinearLogSNR(logsnr_min=-9.0, logsnr_max=9.0)(torch.arange(1, steps + 1).double() / steps)
    totals: dict[str, list[torch.Tensor]] = {"upper": [], "posterior": []}
    for signs in product((-1.0, 1.0), repeat=2):
        q = posterior(images)
        z = sample(q, doubles(*signs).expand(7, 2))
        one = stage_one(decode, images, q, z, likelihood)
        kept, noise = levels.sigmoid(), (-levels).sigmoid()
        errors = noise**2 * (z**2).sum(1, keepdim=True) + 2 * kept * noise  # E|z - sqrt(alpha_bar) x_t|^2 over x_t
        for variance, found in totals.items():
            terms = path_terms(errors, z, levels, range(1, steps + 1), variance)
            found.append(PictureBound(6, one.pixels, one.log_q, terms).total)
    true = -marginal.log_prob(images.flatten(1))
    assert torch.allclose(torch.stack(totals["upper"]).mean(0), true, rtol=1e-12)
    assert (torch.stack(totals["posterior"]).mean(0) > true).all()


def test_with_another_posterior_the_bound_is_looser_by_its_divergence():
    decode, posterior, scale, marginal = linear_autoencoder()
    likelihood = PixelLikelihood(kind="gaussian", scale=scale, levels=None)
    images = marginal.sample((7,)).reshape(7, 1, 2, 3)
    true = posterior(images)
    wrong = Gaussian(true.mean + 0.1, 2 * true.var)
    total = torch.zeros(7, dtype=torch.float64)
    for signs in product((-1.0, 1.0), repeat=2):
        z = sample(wrong, doubles(*signs).expand(7, 2))
        one = stage_one(decode, images, wrong, z, likelihood)
        total += (one.pixels + one.log_q - log_prob(Gaussian(torch.zeros_like(z), torch.ones_like(z)), z)) / 4
    lost = 0.5 * (2 - 1 - math.log(2) + 0.01 / true.var).sum(1)
    assert torch.allclose(total, lost - marginal.log_prob(images.flatten(1)), rtol=1e-12)


def test_a_point_posterior_is_refused():
    image = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="variance of 0"):
        stage_one(lambda z: z, image, Gaussian(image, torch.zeros_like(image)), image, PixelLikelihood(scale=0.1))


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize(("mean", "scale"), [(0.3, 0.2), (0.301, 1e-4), (-1.2, 0.05), (0.999, 0.003), (0.0, 3.0)])
def test_probabilities_of_pixels_sum_to_one(kind, mean, scale):
    values = (torch.arange(256).double() / 127.5 - 1).reshape(-1, 1, 1, 1)
    nats = PixelLikelihood(kind=kind, scale=scale).nll(values, torch.full_like(values, mean))
    assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_probability_is_density_times_width_where_that_is_flat_and_finite_far_away(kind):
    x, x_hat = doubles(51.0).reshape(1, 1, 1, 1) / 127.5 - 1, doubles(0.1).reshape(1, 1, 1, 1)
    wide = PixelLikelihood(kind=kind, scale=0.5)
    density = PixelLikelihood(kind=kind, scale=0.5, levels=None)
    assert wide.nll(x, x_hat).item() == pytest.approx(density.nll(x, x_hat).item() - math.log(2 / 255), abs=1e-4)
    assert 100 < PixelLikelihood(kind=kind, scale=0.005).nll(x, x_hat).item() < math.inf


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_the_measured_scale_is_the_likeliest(kind):
    x, x_hat = torch.randn(2, 1, 5, 5, dtype=torch.float64), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    scale = measured_scale(kind, x, x_hat)
    at = [PixelLikelihood(kind=kind, scale=scale * f, levels=None).nll(x, x_hat).sum() for f in (0.99, 1.0, 1.01)]
    assert at[1] < at[0] and at[1] < at[2]


def test_bits_are_nats_over_size_and_log_two_with_standard_errors():
    latent = ElboTerms(doubles(1.0, 2.0), doubles(0.0, 0.0), doubles(3.0, 4.0))
    bound = PictureBound(10, doubles(20.0, 22.0), doubles(-4.0, -4.0), latent)
    rows = {row.figure: row for row in bits_rows("some", joined([bound, bound]))}
    assert rows["total (bits/dim)"].value == pytest.approx(22 / (10 * math.log(2)), rel=1e-12)
    assert rows["total (bits/dim)"].n == 4
    parts = sum(row.value for name, row in rows.items() if not name.startswith("total"))
    assert parts == pytest.approx(rows["total (bits/dim)"].value, rel=1e-12)
    flow = {row.figure: row.value for row in bits_rows("some", bound, "by the flow")}
    assert flow["by the flow (bits/dim)"] == pytest.approx(5 / (10 * math.log(2)), rel=1e-12)
    assert rows["latent, decoding (bits/dim)"].error == pytest.approx(0.5 / 3**0.5 / (10 * math.log(2)), rel=1e-9)
