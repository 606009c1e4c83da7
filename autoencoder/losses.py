"""The objective of stage 1: the negative ELBO with T = 1, plus perceptual and adversarial terms.

    -ELBO = E_q(z|x)[ -log p(x|z) ] + KL( q(z|x) || N(0, I) )

Source: lecture, "Introduction (2)"; Kingma & Welling 2014 (arXiv:1312.6114) Eq. 3.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.core.gaussian import Gaussian, kl, standard_normal_like
from ldm.core.shapes import Image, PerImage


@dataclass(frozen=True, kw_only=True)
class ReconstructionSpec:
    """The decoder's likelihood p(x | z), per channel of a pixel, independent.

    Attributes:
        kind: "l1" is a Laplace of scale `scale`, "l2" a Gaussian of standard deviation `scale`, both fixed;
            "gaussian" a Gaussian whose standard deviation is learned, starting from `scale`.
        scale: in units of pixels in [-1, 1].
    """

    kind: Literal["l1", "l2", "gaussian"] = "l1"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale: {self.scale} must be above 0")


@dataclass(frozen=True)
class VaeTerms:
    """Negative ELBO by term, in nats per image (b,)."""

    recon: PerImage
    kl: PerImage

    @property
    def total(self) -> PerImage:
        """The negative ELBO."""
        return self.recon + self.kl


class Reconstruction(nn.Module):
    """-log p(x | z), with the scale as a parameter where it is learned."""

    def __init__(self, spec: ReconstructionSpec):
        super().__init__()
        self.kind = spec.kind
        self.log_scale = nn.Parameter(torch.tensor(math.log(spec.scale)), requires_grad=spec.kind == "gaussian")

    def forward(self, x: Image, x_hat: Image) -> PerImage:
        """Negative log density of pictures `x` under the decoder's mean `x_hat`, nats per image (b,)."""
        scaled = (x - x_hat) / self.log_scale.exp()
        if self.kind == "l1":
            terms = scaled.abs() + math.log(2.0) + self.log_scale
        else:
            terms = 0.5 * scaled**2 + 0.5 * math.log(2 * math.pi) + self.log_scale
        return terms.flatten(1).sum(1)


def vae_terms(x: Image, x_hat: Image, posterior: Gaussian, reconstruction: Reconstruction) -> VaeTerms:
    """Both terms of the negative ELBO, one draw of z per image."""
    return VaeTerms(reconstruction(x, x_hat), kl(posterior, standard_normal_like(posterior.mean)))


def adversarial_terms(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator from its scores of real and made patches; a scalar, 0 when all are told apart.

    Source: Lim & Ye 2017 (arXiv:1705.02894).
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(recon: Tensor, adversarial: Tensor, last_layer: Tensor, limit: float = 1e4) -> Tensor:
    """Weight that gives the adversarial term the reconstruction's gradient norm at the decoder's last layer.

    Source: Esser et al. 2021 (arXiv:2012.09841) Eq. 7.
    """
    of_recon = torch.autograd.grad(recon, last_layer, retain_graph=True)[0].norm()
    of_adversarial = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (of_recon / (of_adversarial + 1e-4)).clamp(0, limit).detach()
