"""Small pictures as part of a request: what an upscaler reads of them, and what keeps its result true to them."""

from ldm.codec import IdentityCodec, ScaledCodec
from ldm.core.images import resized
from ldm.core.shapes import Image, Latent
from ldm.nets.low import LowSpec

import torch
from jaxtyping import Float
from torch import Tensor


def low_latent(codec: ScaledCodec | IdentityCodec, small: Image, height: int, width: int) -> Latent:
    """The latent of small pictures, enlarged to `height` x `width` pixels by plain interpolation."""
    return codec.posterior(resized(small.float(), height, width)).mean.float()


def low_versions(codec: ScaledCodec | IdentityCodec, image: Image, spec: LowSpec) -> Float[Tensor, "b k c h w"]:
    """What an upscaler is to be trained on: the latents of pictures shrunk in every way that `spec` names.

    Args:
        codec: stage 1.
        image: pictures (b, 3, h, w), h and w multiples of the factors.
        spec: the factors, k in all.
    """
    height, width = image.shape[-2:]
    small = [resized(image, height // f, width // f) for f in spec.factors]
    for f in spec.redrawn:
        seen = codec.posterior(resized(image, height // f, width // f)).mean
        small.append(codec.decode(seen).float().clamp(-1, 1))
    return torch.stack([low_latent(codec, picture, height, width) for picture in small], dim=1)
