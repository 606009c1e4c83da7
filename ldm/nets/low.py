"""A low-resolution picture as a condition: what an upscaler reads beside its noisy latent, and what it corrects."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.shapes import Latent, PerImage, expand_like
from ldm.nets.cond import Cond

LARGEST_FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class LowSpec:
    """A model that enlarges pictures: which small pictures it is trained on, and how it reads them.

    A small picture is enlarged to the size that is wanted by plain interpolation and encoded by stage 1: so it has the
    shape of the latents, at any factor, and its latent is close to the wanted one.

    Attributes:
        factors: how many times smaller along each side; each is one version of every training picture.
        redrawn: factors of further versions that have also passed through the autoencoder while they were small, as
            pictures that a model of this autoencoder drew have; their flaws are to be mended, not enlarged.
        noise: training adds Gaussian noise of a standard deviation drawn from [0, noise], of which the network is
            told, so that it does not trust the small picture to the letter.
        scale: standard deviation of the corrections, in units of the latents'; they are divided by it.
    """

    kind: Literal["low"] = "low"
    factors: tuple[int, ...] = (2,)
    redrawn: tuple[int, ...] = ()
    noise: float = 0.5
    scale: float = 0.5

    def __post_init__(self) -> None:
        if not self.factors or not all(2 <= f <= LARGEST_FACTOR for f in (*self.factors, *self.redrawn)):
            found = (*self.factors, *self.redrawn)
            raise ValueError(f"low: factors and redrawn {found}; give at least one factor, each 2 to {LARGEST_FACTOR}")
        if self.noise < 0 or self.scale <= 0:
            raise ValueError(f"low: noise {self.noise} is 0 or more, scale {self.scale} above 0")

    @property
    def versions(self) -> int:
        """How many small pictures there are of each large one."""
        return len(self.factors) + len(self.redrawn)


@dataclass(frozen=True, eq=False)
class Low:
    """Enlarged small pictures as the network sees them, and the latents that it works on.

        c = l + s z            l: latent of the enlarged picture; z: standard normal; s: level, told to the network
        r = (x_0 - c) / scale  the correction, which takes the place of the latent x_0 in the diffusion

    so that a network that says nothing leaves the enlarged picture as it was.

    Source: conditioning augmentation, Ho et al. 2021 (arXiv:2106.15282) section 4.2, here with the noise added rather
    than mixed in; diffusion of the difference to the enlarged picture, Li et al. 2021 (arXiv:2104.14951) section 3.2.

    Attributes:
        latent: c (b, c, h, w).
        level: s (b,).
        scale: of the corrections.
    """

    latent: Latent
    level: PerImage
    scale: float

    def into(self, cond: Cond) -> Cond:
        """`cond` with c and a plane of s as its channels (b, c + 1, h, w)."""
        plane = expand_like(self.level, self.latent).expand(-1, 1, *self.latent.shape[2:])
        return replace(cond, channels=torch.cat([self.latent, plane.to(self.latent)], dim=1))

    def correction(self, x0: Latent) -> Latent:
        """r, from the clean latent."""
        return (x0 - self.latent) / self.scale

    def corrected(self, r: Latent) -> Latent:
        """x_0, from the correction."""
        return self.latent + self.scale * r


def noised(latent: Latent, level: PerImage, z: Latent, spec: LowSpec) -> Low:
    """The latent of an enlarged picture with noise of standard deviation `level`.

    Args:
        latent: l (b, c, h, w).
        level: s (b,), 0 to `spec.noise`.
        z: standard normal, of the shape of `latent`.
        spec: of the model.
    """
    return Low(latent + expand_like(level, latent).to(latent) * z, level, spec.scale)


def version(low: Float[Tensor, "b k c h w"], u: PerImage) -> Float[Tensor, "b c h w"]:
    """One of the k versions for each picture: that in whose k-th part of [0, 1) its `u` lies."""
    chosen = (u * low.shape[1]).long().clamp(max=low.shape[1] - 1)
    return low[torch.arange(len(low), device=low.device), chosen]
