"""The KL autoencoder: pictures to a Gaussian over latents and back (lecture, "Introduction": the VAE, T = 1)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.blocks import Downsample, Middle, Stage, norm
from ldm.core.gaussian import Gaussian
from ldm.core.shapes import Image, Latent
from ldm.core.upsample import Upsample

LOG_VAR_RANGE = (-30.0, 20.0)  # keeps exp finite in float32 and the KL defined, as in Stable Diffusion


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """Shape of a KL autoencoder. The defaults are Stable Diffusion's f8 autoencoder (83,653,863 parameters).

    Attributes:
        kind: picks this specification in a configuration file.
        image_channels: channels of a picture.
        latent_channels: channels of a latent.
        channels: width at the finest resolution of the encoder.
        decoder_channels: the same for the decoder; None: as the encoder.
        mult: width multiplier of each resolution, finest first; each but the last halves the resolution.
        blocks: residual blocks per resolution in the encoder; the decoder has one more.
        patch: side of the pixel blocks that are folded into channels before the first convolution. 1: none. Folding
            moves the work to resolutions where a convolution costs patch^2 times less.
        attention: self-attention at the lowest resolution.
        norm_groups: groups of the group norms.
    """

    kind: Literal["kl"] = "kl"
    image_channels: int = 3
    latent_channels: int = 4
    channels: int = 128
    decoder_channels: int | None = None
    mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    patch: int = 1
    attention: bool = True
    norm_groups: int = 32

    def __post_init__(self) -> None:
        for name in ("image_channels", "latent_channels", "channels", "blocks", "patch", "norm_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not possible; give 1 or more")
        if self.decoder_channels is not None and self.decoder_channels < 1:
            raise ValueError(f"decoder_channels: {self.decoder_channels} is not possible; give 1 or more, or null")
        if not self.mult or min(self.mult) < 1:
            raise ValueError(f"mult: {self.mult} is not possible; give at least one multiplier, each 1 or more")

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return self.patch * 2 ** (len(self.mult) - 1)


class Encoder(nn.Module):
    """Pictures (b, 3, h, w) to the moments of the posterior (b, 2 z, h / f, w / f)."""

    def __init__(self, spec: AutoencoderSpec):
        super().__init__()
        widths = [spec.channels * m for m in spec.mult]
        self.patch = spec.patch
        self.conv_in = nn.Conv2d(spec.image_channels * spec.patch**2, spec.channels, 3, padding=1)
        self.stages = nn.ModuleList()
        previous = spec.channels
        for level, width in enumerate(widths):
            down = Downsample(width) if level + 1 < len(widths) else None
            self.stages.append(Stage(previous, width, spec.blocks, spec.norm_groups, down))
            previous = width
        self.middle = Middle(previous, spec.norm_groups, spec.attention)
        self.norm_out = norm(previous, spec.norm_groups)
        self.conv_out = nn.Conv2d(previous, 2 * spec.latent_channels, 3, padding=1)
        self.quant = nn.Conv2d(2 * spec.latent_channels, 2 * spec.latent_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mean and log-variance stacked along the channels."""
        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for stage in self.stages:
            h = stage(h)
        h = self.middle(h)
        return self.quant(self.conv_out(F.silu(self.norm_out(h))))


class Decoder(nn.Module):
    """Latents (b, z, h, w) to pictures (b, 3, f h, f w)."""

    def __init__(self, spec: AutoencoderSpec):
        super().__init__()
        base = spec.decoder_channels or spec.channels
        widths = [base * m for m in reversed(spec.mult)]
        self.patch = spec.patch
        self.post_quant = nn.Conv2d(spec.latent_channels, spec.latent_channels, 1)
        self.conv_in = nn.Conv2d(spec.latent_channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], spec.norm_groups, spec.attention)
        self.stages = nn.ModuleList()
        previous = widths[0]
        for level, width in enumerate(widths):
            up = Upsample(width) if level + 1 < len(widths) else None
            self.stages.append(Stage(previous, width, spec.blocks + 1, spec.norm_groups, up))
            previous = width
        self.norm_out = norm(previous, spec.norm_groups)
        self.conv_out = nn.Conv2d(previous, spec.image_channels * spec.patch**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """The mean of p(x | z); values may leave [-1, 1] slightly."""
        h = self.middle(self.conv_in(self.post_quant(z)))
        for stage in self.stages:
            h = stage(h)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)


class Autoencoder(nn.Module):
    """q(z | x) and the mean of p(x | z)."""

    def __init__(self, spec: AutoencoderSpec):
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    def encode(self, x: Image) -> Gaussian:
        """Posterior q(z | x) of pictures (b, 3, h, w) in [-1, 1]: mean and variance (b, z, h / f, w / f), float32.

        Raises:
            ValueError: a side is not divisible by the latent factor f.
        """
        factor = self.spec.factor
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise ValueError(f"picture of {x.shape[-1]}x{x.shape[-2]}: both sides must be divisible by {factor}")
        mean, log_var = self.encoder(x).float().chunk(2, dim=1)
        return Gaussian(mean, log_var.clamp(*LOG_VAR_RANGE).exp())

    def decode(self, z: Latent) -> Image:
        """Mean of p(x | z) for latents (b, z, h, w): pictures (b, 3, f h, f w), about [-1, 1]."""
        return self.decoder(z)

    def forward(self, x: Image, noise: Latent) -> tuple[Image, Gaussian]:
        """One round trip, with z = mean + std * noise: the reconstruction and the posterior."""
        posterior = self.encode(x)
        z = posterior.mean + posterior.var.sqrt() * noise
        return self.decode(z.to(torch.promote_types(z.dtype, torch.float32))), posterior

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (z, h, w) of one latent for a picture of `height` x `width` pixels."""
        return self.spec.latent_channels, height // self.spec.factor, width // self.spec.factor
