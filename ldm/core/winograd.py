"""A 3x3 convolution in less than half the time, for a CPU in float32: Winograd's minimal filtering F(4x4, 3x3).

Sixteen results need 144 products of a tile's numbers by weights when they are computed one by one, and 36 after both
were transformed: polynomials of degree 5 are multiplied by their values in six points (0, 1, -1, 2, -2 and infinity).
The transforms are products by constant matrices, and the rest is 36 matrix products. The rounding error of float32
grows from 1e-6 to 3e-6 of the result's standard deviation; in bfloat16 it would be visible, so there it is not used.

The transformed weights are four times as large as the plain ones, which pays where a layer has more pixels than
channels: the fine levels of a U-Net, a decoder.

Source: Lavin and Gray 2015 (arXiv:1509.09308) section 4.3; `benchmarks/convolution.py` measures it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SIDE, TILE = 4, 6  # of the results and of the inputs of a tile
TILES = 128  # transformed at a time, about what a cache holds
FEWEST = 64  # tiles of a picture from which on it pays: 32x32 pixels
NARROWEST = 64  # channels from which on the transforms cost less than they save
WIDEST = 640 * 640  # input by output channels up to which weights may grow

_INPUT = (
    (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
    (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
    (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
    (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
)
_WEIGHT = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
_OUTPUT = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
    (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
    (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
)


def fits(channels: int, filters: int, height: int, width: int) -> bool:
    """Whether it pays for a picture of this size."""
    return _pays(channels, filters) and _tiles(height) * _tiles(width) >= FEWEST


def transformed_bytes(channels: int, filters: int) -> int:
    """What the transformed weights of a layer take beside its own; 0 if it never has any."""
    return 4 * TILE * TILE * channels * filters if _pays(channels, filters) else 0


def _pays(channels: int, filters: int) -> bool:
    return min(channels, filters) >= NARROWEST and channels * filters <= WIDEST


class Winograd:
    """Convolution with fixed 3x3 weights, stride 1, padded by one pixel of zeros.

    Args:
        weight: (k, c, 3, 3), float32.
    """

    def __init__(self, weight: Float[Tensor, "k c 3 3"]):
        once = torch.tensor(_WEIGHT, dtype=torch.float64)
        both = torch.einsum("ai,bj,kcij->abck", once, once, weight.double())
        self._weight = both.flatten(0, 1).float().contiguous()
        self._input, self._output = _twice(_INPUT), _twice(_OUTPUT)

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """The result, channels-last; each picture by itself, so that it does not depend on its batch."""
        b, c, h, w = x.shape
        down, across, filters = _tiles(h), _tiles(w), self._weight.shape[2]
        border = (0, 0, 1, SIDE * across - w + 1, 1, SIDE * down - h + 1)
        padded = F.pad(x.permute(0, 2, 3, 1), border).contiguous()
        image, row, column, one = padded.stride()
        out = x.new_empty(b, SIDE * down, SIDE * across, filters)
        rows = max(1, TILES // across)
        for i in range(b):
            for top in range(0, down, rows):
                some = min(rows, down - top)
                shape, stride = (TILE, TILE, some, across, c), (row, column, SIDE * row, SIDE * column, one)
                tiles = padded.as_strided(shape, stride, i * image + top * SIDE * row).reshape(TILE * TILE, -1)
                products = (self._input @ tiles).view(TILE * TILE, some * across, c) @ self._weight
                found = (self._output @ products.flatten(1)).view(SIDE, SIDE, some, across, filters)
                block = out[i, SIDE * top : SIDE * (top + some)].view(some, SIDE, across, SIDE, filters)
                block.copy_(found.permute(2, 0, 3, 1, 4))
        return out[:, :h, :w].contiguous().permute(0, 3, 1, 2)


def _tiles(length: int) -> int:
    return -(-length // SIDE)


def _twice(matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """The matrix for both directions of a tile at once."""
    once = torch.tensor(matrix)
    return torch.kron(once, once)
