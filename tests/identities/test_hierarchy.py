"""The bound of a hierarchical VAE: its two instances, the lecture's steps to them, and a small model that learns."""

import math
from dataclasses import replace

import pytest
import torch

from autoencoder.losses import Reconstruction, ReconstructionSpec, vae_terms
from autoencoder.model import Autoencoder, AutoencoderSpec
from ldm.core.gaussian import Gaussian, log_prob
from ldm.nets.hierarchy import HierarchicalVAE, HierarchySpec
from ldm.process.elbo import denoise_term, first_decoder, prior_term, recon_term
from ldm.process.exact import GaussianMixture
from ldm.process.hierarchy import (
    Hierarchy,
    bound,
    consistency_terms,
    denoising_terms,
    diffusion,
    diffusion_reversal,
    encode,
    gaussian_likelihood,
    log_encoder,
    log_joint,
    log_reversal,
)
from ldm.process.variance import AnalyticVariance, upper

ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of a unit normal, nats


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def cubature(n):
    """2 n points (2 n, n) over which the average of any quadratic is its expectation under N(0, I_n)."""
    corners = math.sqrt(n) * torch.eye(n, dtype=torch.float64)
    return torch.cat([corners, -corners])


def gaussian_world(var):
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(w=one, mu=torch.zeros(1, 1, dtype=torch.float64), var=var * one)


def levels(count):
    return torch.linspace(6.0, -7.0, count, dtype=torch.float64) if count > 1 else doubles(-1.0)


def rough(x_t, logsnr):
    """A linear denoiser that is not the right one."""
    return (0.7 * logsnr.sigmoid().sqrt())[:, None] * x_t + 0.1


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_the_chain_of_steps_telescopes_to_the_chain_of_posteriors(count):
    """Lecture, ELBO (1) to (2): log q(x_1..T | x_0) = log q(x_T | x_0) + sum log q(x_{t-1} | x_t, x_0), any states."""
    chain, reverse = diffusion(rough, levels(count)), diffusion_reversal(levels(count))
    x = normals(3, 2, 4)
    drawn = encode(chain, x, [normals(3, 2, 4, seed=i) for i in range(count)])
    for states in (drawn, [normals(3, 2, 4, seed=100 + i) for i in range(count)]):
        forward, backward = log_encoder(chain, x, states), log_reversal(reverse, x, states)
        torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


def test_the_encoders_of_diffusion_draw_the_marginal():
    chain, x = diffusion(rough, levels(5)), normals(2, 3)
    still = encode(chain, x, [torch.zeros(2, 3).double()] * 5)
    for state, level in zip(still, levels(5), strict=True):
        torch.testing.assert_close(state, level.sigmoid().sqrt() * x)  # means; variances are tested by telescoping


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("variance", [None, upper], ids=["posterior", "upper"])
def test_denoising_terms_are_the_terms_of_the_diffusion_bound(count, variance):
    """With the same states: the VDM's analytic terms are one decomposition of the generic bound."""
    options = {} if variance is None else {"variance": variance}
    chain, x, eps = diffusion(rough, levels(count), **options), normals(3, 2), [normals(3, 2, seed=i) for i in range(9)]
    states = encode(chain, x, eps[:count])
    terms = denoising_terms(chain, diffusion_reversal(levels(count)), x, eps[:count])
    row = [level.expand(3) for level in levels(count)]
    torch.testing.assert_close(terms.recon, recon_term(x, first_decoder(states[0], row[0])), rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.prior, prior_term(x, row[-1]), rtol=1e-12, atol=0)
    expected = torch.zeros(3).double()
    for s, t, x_t in zip(row[:-1], row[1:], states[1:], strict=True):
        var = None if variance is None else variance(s, t)[:, None]
        expected = expected + denoise_term(x, rough(x_t, t), s, t, var)
    torch.testing.assert_close(terms.denoise, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_every_form_of_the_bound_has_the_same_expectation(count, data_var):
    """Exactly, not by Monte Carlo: in a linear-Gaussian world every form is quadratic in the data and the noises."""
    points = cubature(count + 1)
    x, eps = math.sqrt(data_var) * points[:, :1], list(points[:, 1:, None].unbind(1))
    chain = diffusion(rough, levels(count))
    forms = [
        -bound(chain, x, eps),
        consistency_terms(chain, x, eps).total,
        denoising_terms(chain, diffusion_reversal(levels(count)), x, eps).total,
        log_encoder(chain, x, encode(chain, x, eps)) - log_joint(chain, x, encode(chain, x, eps)),
    ]
    first, *others = [form.mean().item() for form in forms]
    assert others == pytest.approx([first] * 3, rel=1e-11)
    assert forms[0].std() > 1e3 * abs(first - others[1])  # they agree in the mean alone


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_with_the_true_reverse_chain_the_generic_bound_is_the_likelihood(count, data_var):
    """Analytic variances make the decoders exact: what is lost is KL(q(x_T) || N(0, I)), and nothing else."""
    world, grid = gaussian_world(data_var), levels(count)
    total = grid.sigmoid() * data_var + (-grid).sigmoid()
    table = AnalyticVariance(
        logsnr=tuple(grid.tolist()), gamma=tuple(((-grid).sigmoid() / total).tolist()), model="exact"
    )

    def exact_decoder(z):
        return Gaussian(world.denoise(z, grid[0].expand(len(z))), world.variance(z, grid[0].expand(len(z))))

    chain = replace(diffusion(world.denoise, grid, variance=table), log_likelihood=gaussian_likelihood(exact_decoder))
    points = cubature(count + 1)
    found = bound(chain, math.sqrt(data_var) * points[:, :1], list(points[:, 1:, None].unbind(1)))
    lost = 0.5 * (total[-1] - 1 - total[-1].log())
    assert -found.mean().item() == pytest.approx((ENTROPY + 0.5 * math.log(data_var) + lost).item(), rel=1e-11)
    if data_var == 1:  # q(x_T) is N(0, I): the bound is the likelihood for every x and every draw, not on average
        x, eps = normals(5, 1), [normals(5, 1, seed=i) for i in range(count)]
        truth = log_prob(Gaussian(torch.zeros(5, 1).double(), torch.ones(5, 1).double()), x)
        torch.testing.assert_close(bound(chain, x, eps), truth, rtol=1e-10, atol=1e-10)


AUTOENCODER = AutoencoderSpec(latent_channels=2, channels=4, mult=(1, 1), blocks=1, attention=False, norm_groups=2)


@pytest.mark.parametrize("kind", ["l1", "l2", "gaussian"])
def test_one_level_is_the_objective_of_the_autoencoder(kind):
    """Same picture, posterior and noise: with the KL taken analytically, the same numbers to the last bit."""
    model, reconstruction = Autoencoder(AUTOENCODER), Reconstruction(ReconstructionSpec(kind=kind, scale=0.5))
    x, z = normals(2, 3, 8, 8).float(), normals(2, 2, 4, 4, seed=1).float()
    vae = Hierarchy(
        encoders=(model.encode,), decoders=(), log_likelihood=lambda x, z: -reconstruction(x, model.decode(z))
    )
    with torch.no_grad():
        terms, (x_hat, posterior) = consistency_terms(vae, x, [z]), model(x, z)
        expected = vae_terms(x, x_hat, posterior, reconstruction)
    assert torch.equal(terms.recon, expected.recon) and torch.equal(terms.prior, expected.kl)
    assert (terms.denoise == 0).all() and torch.equal(terms.total, expected.total)


def test_one_level_has_the_autoencoders_kl_in_expectation():
    """Monte Carlo's log q(z | x) - log p(z), averaged over points that integrate it exactly, is the analytic KL."""
    model, x = Autoencoder(AUTOENCODER), normals(1, 3, 8, 8).float()
    points = cubature(32).float().reshape(64, 2, 4, 4)
    vae = Hierarchy(encoders=(model.encode,), decoders=(), log_likelihood=lambda x, z: torch.zeros(len(x)))
    with torch.no_grad():
        found = -bound(vae, x.expand(64, 3, 8, 8), [points]).mean()
        kl = vae_terms(x, x, model.encode(x), Reconstruction(ReconstructionSpec())).kl[0]
    assert kl > 1 and found.item() == pytest.approx(kl.item(), rel=1e-5)


def test_levels_may_differ_in_shape_and_disagreements_are_refused():
    vae = HierarchicalVAE(HierarchySpec(data_dim=3, latent_dims=(5, 1), width=4))
    hierarchy = Hierarchy(encoders=vae.encoders, decoders=vae.decoders, log_likelihood=vae.log_likelihood)
    eps = [torch.randn(2, 5), torch.randn(2, 1)]
    assert len(hierarchy) == 2 and bound(hierarchy, torch.randn(2, 3), eps).shape == (2,)
    with pytest.raises(ValueError, match="eps: 1 noises for 2 levels"):
        bound(hierarchy, torch.randn(2, 3), eps[:1])
    with pytest.raises(ValueError, match="decoders: 0 for 2 levels"):
        replace(hierarchy, decoders=())
    with pytest.raises(ValueError, match="encoders: none"):
        replace(hierarchy, encoders=())
    with pytest.raises(ValueError, match="eps: 2 noises; give 3"):
        vae.sample(eps)
    for bad in ({"data_dim": 0}, {"latent_dims": ()}, {"latent_dims": (2, 0)}, {"width": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}: .* is not possible"):
            HierarchySpec(**{"data_dim": 3, "latent_dims": (2,)} | bad)


MIXING = torch.tensor([[1.5, 0.0], [1.0, 0.5], [-0.5, 1.0], [0.0, 0.8]])
WORLD = torch.distributions.MultivariateNormal(torch.zeros(4), MIXING @ MIXING.T + 0.1 * torch.eye(4))


def drawn(n, generator):
    """Data of the linear-Gaussian world (n, 4)."""
    factors, noise = torch.randn(n, 2, generator=generator), torch.randn(n, 4, generator=generator)
    return factors @ MIXING.T + math.sqrt(0.1) * noise


def test_three_learned_levels_approach_the_true_likelihood_from_below(without_shape_checks):
    """120 small steps gain over 5 nats of bound, to within 0.6 nats of the truth, and never past it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    vae = HierarchicalVAE(HierarchySpec(data_dim=4, latent_dims=(3, 2, 2), width=8))
    hierarchy = Hierarchy(encoders=vae.encoders, decoders=vae.decoders, log_likelihood=vae.log_likelihood)

    def noises(n):
        return [torch.randn(n, dim, generator=generator) for dim in vae.spec.latent_dims]

    held_out, fixed = drawn(4000, generator), noises(4000)
    truth = WORLD.log_prob(held_out)

    @torch.no_grad()
    def gap():
        """Nats by which the bound lies below the true log likelihood, and the standard error of that."""
        below = truth - bound(hierarchy, held_out, fixed)
        return below.mean().item(), below.std().item() / math.sqrt(len(below))

    before, _ = gap()
    optimizer = torch.optim.Adam(vae.parameters(), lr=4e-2)
    for _ in range(120):
        loss = -bound(hierarchy, drawn(64, generator), noises(64)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after, error = gap()
    assert before - after > 5 and 3 * error < after < 0.6
    with torch.no_grad():
        made = vae.sample([torch.randn(4000, 4, generator=generator), *noises(4000)])
    torch.testing.assert_close(made.T.cov(), WORLD.covariance_matrix, rtol=0, atol=0.5)
