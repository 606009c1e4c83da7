"""What a latent is: all that stage 2 sees of stage 1, posterior and decoder at the scale of its latents."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ldm.core.gaussian import Gaussian, sample
from ldm.core.shapes import Image, Latent


@runtime_checkable
class KLAutoencoder(Protocol):
    """What stage 2 needs of stage 1, e.g. `autoencoder.model.Autoencoder`.

    Attributes:
        spec: its shape, with `factor`, the pixels per latent position along each side.
    """

    spec: Any

    def encode(self, x: Image) -> Gaussian: ...

    def decode(self, z: Latent) -> Image: ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]: ...


class LatentStats(nn.Module):
    """The affine map between raw latents and those of stage 2: zero mean and unit variance in every channel.

    Args:
        mean: per channel; one number holds for all.
        std: per channel; one number holds for all. Stable Diffusion's factor 0.18215 is `mean=[0], std=[1 / 0.18215]`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def normalise(self, z: Gaussian) -> Gaussian:
        """Raw posterior to stage 2's scale."""
        return Gaussian((z.mean - self.mean) / self.std, z.var / self.std**2)

    def restore(self, z: Latent) -> Latent:
        """Stage 2's latent to the decoder's scale."""
        return z * self.std + self.mean


class ScaledCodec(nn.Module):
    """An autoencoder seen through the statistics of its latents.

    Args:
        autoencoder: pictures to raw latents and back.
        stats: measured over the training set.
    """

    def __init__(self, autoencoder: KLAutoencoder, stats: LatentStats):
        super().__init__()
        self.autoencoder, self.stats = autoencoder, stats
        self.factor: int = autoencoder.spec.factor

    def posterior(self, image: Image) -> Gaussian:
        """q(z | x) at stage 2's scale: what a cache keeps, so that every epoch draws fresh noise."""
        return self.stats.normalise(self.autoencoder.encode(image))

    def encode(self, image: Image, noise: Latent) -> Latent:
        """A draw from the posterior with standard normal `noise`."""
        return sample(self.posterior(image), noise)

    def decode(self, z: Latent) -> Image:
        """Mean of p(x | z)."""
        return self.autoencoder.decode(self.stats.restore(z))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(c, h, w) of one latent of a picture of `height` x `width` pixels."""
        return self.autoencoder.latent_shape(height, width)


class IdentityCodec(nn.Module):
    """Diffusion in pixel space: the latent is the picture."""

    factor: int = 1

    def posterior(self, image: Image) -> Gaussian:
        """A point: the picture without variance."""
        return Gaussian(image, torch.zeros_like(image))

    def encode(self, image: Image, noise: Latent) -> Latent:
        """The picture; `noise` is not used."""
        return image

    def decode(self, z: Latent) -> Image:
        """The latent."""
        return z

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(3, height, width)."""
        return 3, height, width


Codec = ScaledCodec | IdentityCodec
