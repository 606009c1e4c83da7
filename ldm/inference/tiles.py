"""Large pictures in overlapping squares of a size that a network knows, and back without seams."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Where a picture of height x width pixels is cut into rectangles that overlap.

    Attributes:
        height, width: of the picture.
        tile: (height, width) of each rectangle; larger than the picture where that had to be extended.
        tops, lefts: where they begin.
    """

    height: int
    width: int
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def cut(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c y x"]:
        """The rectangles of every picture, picture by picture (b n, c, *tile); its border goes on beyond its edge."""
        below, beside = max(0, self.tile[0] - self.height), max(0, self.tile[1] - self.width)
        image = F.pad(image, (0, beside, 0, below), mode="replicate")
        h, w = self.tile
        cuts = [image[:, :, top : top + h, left : left + w] for top in self.tops for left in self.lefts]
        return torch.stack(cuts, dim=1).flatten(0, 1)

    def join(self, tiles: Float[Tensor, "n c y x"], factor: int) -> Float[Tensor, "b c h w"]:
        """The inverse of `cut` for rectangles that were enlarged; where several overlap, each fades out to its edge.

        Args:
            tiles: (b n, c, factor tile height, factor tile width).
            factor: how many times they were enlarged.
        """
        tiles = tiles.unflatten(0, (-1, len(self)))
        h, w = (factor * side for side in self.tile)
        rows, columns = factor * max(self.height, self.tile[0]), factor * max(self.width, self.tile[1])
        fade = _fade(h)[:, None] * _fade(w)
        total = tiles.new_zeros(len(tiles), tiles.shape[2], rows, columns)
        weight = tiles.new_zeros(rows, columns)
        for i in range(len(self)):
            top, left = factor * self.tops[i // len(self.lefts)], factor * self.lefts[i % len(self.lefts)]
            total[:, :, top : top + h, left : left + w] += fade * tiles[:, i]
            weight[top : top + h, left : left + w] += fade
        return (total / weight)[:, :, : factor * self.height, : factor * self.width]

    def __len__(self) -> int:
        """Rectangles of one picture."""
        return len(self.tops) * len(self.lefts)


def tiling(height: int, width: int, *, largest: int, unit: int) -> Tiling:
    """Squares of `largest` pixels that overlap by a quarter or more, or one rectangle for a side that is shorter.

    Args:
        height, width: of the picture.
        largest: longest side of a rectangle, a multiple of `unit`.
        unit: what the sides of a rectangle are multiples of.
    """
    sides = [min(largest, -(-side // unit) * unit) for side in (height, width)]
    tops, lefts = (_starts(side, tile) for side, tile in zip((height, width), sides, strict=True))
    return Tiling(height, width, (sides[0], sides[1]), tops, lefts)


def _starts(side: int, tile: int) -> tuple[int, ...]:
    """Evenly spread, the first at 0 and the last at the end."""
    if side <= tile:
        return (0,)
    count = -(-(side - tile) // (tile - tile // 4)) + 1
    return tuple(i * (side - tile) // (count - 1) for i in range(count))


def _fade(side: int) -> Tensor:
    """Weight of each pixel of a side: rising from its ends over a quarter, above 0."""
    position = torch.arange(side) + 0.5
    return (torch.minimum(position, side - position) / (side / 4)).clamp(max=1)
