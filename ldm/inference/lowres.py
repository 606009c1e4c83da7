"""Small pictures as part of a request: what an upscaler reads of them, and what holds its result to them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.build import Model
from ldm.codec import Codec
from ldm.core.images import interpolated, resized
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Image
from ldm.nets.low import Low, LowSpec, noised

ROUNDS = 4  # of `held_to`: what is left of the difference is then below a rounding to 8 bits almost everywhere


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRes:
    """What the pictures of a request are enlarged from.

    Attributes:
        small: one picture for each prompt (n, 3, h, w) in [-1, 1].
        noise: standard deviation of the noise on what the network reads, 0 to the `noise` of the model's `low`; more
            leaves it more to invent.
    """

    small: Image
    noise: float = 0.0

    def seen(self, model: Model, rows: slice, height: int, width: int, noise: NoiseStream) -> Low:
        """The pictures in `rows`, as the network sees them when it draws `height` x `width` pixels."""
        spec = model.config.low
        assert spec is not None  # `check` was called
        device = next(model.denoise.parameters()).device
        latent = low_latent(model.codec, self.small[rows].to(device), height, width)
        level = torch.full((len(latent),), self.noise, device=device)
        if not self.noise:
            return Low(latent, level, spec.scale)
        return noised(latent, level, noise.normal(latent.shape, like=latent), spec)


def check(model: Model, low: LowRes | None, pictures: int) -> None:
    """An upscaler needs small pictures, another model takes none.

    Raises:
        ValueError: it is not so, there is not one picture for each prompt, or more noise than was trained with.
    """
    name, spec = model.folder or "the model", model.config.low
    if spec is None:
        if low is not None:
            raise ValueError(f"model: {name} is no upscaler; use models/emoji-upscaler")
        return
    if low is None:
        raise ValueError(f"model: {name} enlarges pictures and draws none from words alone; use scripts/upscale.py")
    if len(low.small) != pictures:
        raise ValueError(f"small: {len(low.small)} pictures for {pictures} prompts; give one for each")
    if not 0 <= low.noise <= spec.noise:
        raise ValueError(f"noise: {low.noise} is not in 0 to {spec.noise:g}, what this model was trained with")


def low_latent(codec: Codec, small: Image, height: int, width: int) -> Float[Tensor, "b c_latent h_latent w_latent"]:
    """The latent of small pictures, enlarged to `height` x `width` pixels by plain interpolation."""
    return codec.posterior(resized(small.float(), height, width)).mean.float()


def low_versions(codec: Codec, image: Image, spec: LowSpec) -> Float[Tensor, "b k c_latent h_latent w_latent"]:
    """What an upscaler is trained on: the latents of pictures that were made small in every way that `spec` names.

    Args:
        codec: stage 1.
        image: pictures (b, 3, h, w), h and w multiples of the factors.
        spec: the k ways.
    """
    height, width = image.shape[-2:]
    small = [resized(image, height // f, width // f) for f in spec.factors]
    for f in spec.redrawn:
        latent = codec.posterior(resized(image, height // f, width // f)).mean
        small.append(codec.decode(latent).float().clamp(-1, 1))
    return torch.stack([low_latent(codec, picture, height, width) for picture in small], dim=1)


def held_to(large: Float[Tensor, "b 3 H W"], small: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
    """`large` with its coarse structure replaced by that of `small`: made small again, it is `small`.

        y <- y + up(small - down(y)), a few times

    where up and down are bicubic, so only what `small` cannot show is left as it was.

    Source: Irani and Peleg 1991, "Improving resolution by image registration", Eq. 2 (back-projection).

    Args:
        large: pictures (b, 3, f h, f w) in [-1, 1].
        small: pictures (b, 3, h, w) in [-1, 1].
    """
    y = large
    for _ in range(ROUNDS):
        y = (y + interpolated(small - interpolated(y, *small.shape[-2:]), *y.shape[-2:])).clamp(-1, 1)
    return y
