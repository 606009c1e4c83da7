"""The objective of stage 1 against independent computations."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributions

from autoencoder.config import AutoencoderConfig, LossSpec
from autoencoder.losses import Reconstruction, ReconstructionSpec, adaptive_weight, adversarial_terms, vae_terms
from autoencoder.module import AutoencoderTraining
from ldm.core.config_io import load
from ldm.core.gaussian import Gaussian
from ldm.core.rng import NoiseStream, fold

ROOT = Path(__file__).parents[2]
LIKELIHOODS = {
    "l1": lambda x_hat, scale: distributions.Laplace(x_hat, scale),
    "l2": lambda x_hat, scale: distributions.Normal(x_hat, scale),
    "gaussian": lambda x_hat, scale: distributions.Normal(x_hat, scale),
}


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_the_negative_elbo_is_that_of_torch_distributions(kind):
    x, x_hat = torch.randn(2, 4, 3, 6, 6, dtype=torch.float64)
    posterior = Gaussian(torch.randn(4, 2, 3, 3).double(), torch.randn(4, 2, 3, 3).double().exp())
    reconstruction = Reconstruction(ReconstructionSpec(kind=kind, scale=0.3)).double()
    terms = vae_terms(x, x_hat, posterior, reconstruction)
    log_likelihood = LIKELIHOODS[kind](x_hat, reconstruction.log_scale.exp()).log_prob(x)
    q = distributions.Normal(posterior.mean, posterior.var.sqrt())
    divergence = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0))
    expected = -log_likelihood.flatten(1).sum(1) + divergence.flatten(1).sum(1)
    torch.testing.assert_close(terms.total, expected, rtol=1e-12, atol=0)
    assert reconstruction.log_scale.item() == pytest.approx(math.log(0.3), rel=1e-6)
    assert reconstruction.log_scale.requires_grad == (kind == "gaussian")


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_training_descends_the_bound_per_value_of_the_picture():
    config = load(ROOT / "configs/smoke/autoencoder.yaml", AutoencoderConfig)
    module = AutoencoderTraining(replace(config, loss=LossSpec(kl=1.0, lpips=0.0)))
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    noise = NoiseStream([fold(config.seed, "posterior", 0, row) for row in range(3)])
    x_hat, posterior = module.model(x, noise.normal((3, *module.model.latent_shape(32, 32)), like=x))
    expected = vae_terms(x, x_hat, posterior, module.reconstruction).total.mean() / x[0].numel()
    torch.testing.assert_close(module._objective(x, adversarial=False)[0], expected)


def test_the_best_learned_scale_is_the_root_mean_square_error():
    x, x_hat = torch.randn(2, 4, 3, 8, 8)
    rmse = ((x - x_hat) ** 2).mean().sqrt()
    reconstruction = Reconstruction(ReconstructionSpec(kind="gaussian", scale=rmse.item()))
    reconstruction(x, x_hat).mean().backward()
    assert abs(reconstruction.log_scale.grad.item()) < 1e-3  # of 192 terms
    losses = {}
    for factor in (0.9, 1.0, 1.1):
        spec = ReconstructionSpec(kind="gaussian", scale=factor * rmse.item())
        losses[factor] = Reconstruction(spec)(x, x_hat).mean().item()
    assert losses[1.0] < min(losses[0.9], losses[1.1])


def test_the_scale_must_be_positive():
    with pytest.raises(ValueError, match="^scale: 0"):
        ReconstructionSpec(scale=0.0)


def test_hinge_loss_is_zero_only_beyond_the_margins():
    assert adversarial_terms(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -9.0])) == 0
    assert adversarial_terms(torch.tensor([0.0, 2.0]), torch.tensor([1.0, -3.0])) == 0.5 * (0.5 + 1.0)


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    recon = (layer * torch.tensor([3.0, 4.0])).sum()  # gradient of norm 5
    adversarial = (layer * torch.tensor([0.0, 2.0])).sum()  # of norm 2
    weight = adaptive_weight(recon, adversarial, layer)
    assert weight.item() == pytest.approx(2.5, rel=1e-4) and not weight.requires_grad
    assert adaptive_weight(recon, 0 * adversarial, layer, limit=7.0) == 7
    (recon + weight * adversarial).backward()  # the graph is still there
    torch.testing.assert_close(layer.grad, torch.tensor([3.0, 4.0 + 2 * weight.item()]))
