"""Names for the tensor shapes that public signatures use, checked by jaxtyping when the tests run."""

from jaxtyping import Float
from torch import Tensor

Latent = Float[Tensor, "b *d"]  # one latent (or picture) per row, any shape after the batch
Image = Float[Tensor, "b c h w"]  # pixels in [-1, 1]
PerImage = Float[Tensor, " b"]  # one number per image
LogSNR = Float[Tensor, " b"]  # noise level per image: log(alpha_bar / (1 - alpha_bar)), nats


def expand_like(values: PerImage, x: Latent) -> Tensor:
    """View per-image numbers (b,) as (b, 1, ..., 1), so that they broadcast over `x` (b, *d).

    Raises:
        ValueError: neither one number nor one for each image.
    """
    if values.numel() not in (1, len(x)):
        raise ValueError(f"levels: {tuple(values.shape)} for {len(x)} images; give one number for each image")
    return values.reshape(-1, *([1] * (x.ndim - 1)))
