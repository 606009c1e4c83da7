"""Numbers as vectors: the noise level as sinusoids, and the small network that reads such vectors."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.shapes import PerImage


def sinusoids(values: PerImage, dim: int, max_period: float = 10_000.0) -> Float[Tensor, "b dim"]:
    """Cosines, then sines, of `values` at dim / 2 frequencies from 1 down to about 1 / max_period.

        out = [cos(w_0 v), ..., cos(w_k v), sin(w_0 v), ..., sin(w_k v)],   w_i = max_period^(-i / (dim / 2))

    The frequencies are made anew from the device of `values`, in float32: as a buffer they would be rounded when the
    network is cast to bfloat16 (at step 999 the phase would be off by radians) and lost when it is built on the
    meta device. The cost is three operations on dim / 2 numbers.

    Source: Vaswani et al. 2017 (arXiv:1706.03762) section 3.5; in the order of Ho et al. 2020 as used by
    Stable Diffusion, cosines first.

    Args:
        values: one number per image (b,), any range; steps of a thousand-step schedule suit `max_period`.
        dim: length of the result, even.
        max_period: the longest wavelength is 2 pi times about this.

    Returns:
        float32 (b, dim) in [-1, 1].
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    frequencies = torch.exp(-math.log(max_period) * exponents)
    phase = values.float()[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class VectorMLP(nn.Module):
    """Two linear layers with a SiLU between: (b, dim_in) -> (b, dim_out)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.linear1 = nn.Linear(dim_in, dim_out)
        self.linear2 = nn.Linear(dim_out, dim_out)

    def forward(self, x: Float[Tensor, "b dim_in"]) -> Float[Tensor, "b dim_out"]:
        """Apply in the precision of the weights, whatever that of `x`."""
        return self.linear2(nn.functional.silu(self.linear1(x.to(self.linear1.weight.dtype))))
