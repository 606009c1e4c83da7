"""Doubling a map: every pixel becomes four, then a 3x3 convolution.

The convolution sees each pixel of the small map several times, so a result is a sum over only 2x2 of them, with weights
that are sums of its own; which ones depends on whether its row and column are even. So the layer can be split into four
2x2 convolutions of the small map: 4/9 of the products, and the doubled map is never written. That is done where layers
are packed, for a CPU.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.packed import narrowed, pack

Map = Float[Tensor, "b c h w"]
Doubled = Float[Tensor, "b c 2*h 2*w"]


class Upsample(nn.Module):
    """Double height and width by repetition, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Map) -> Doubled:
        """The doubled map, convolved."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def packed(self) -> nn.Module:
        """The same function for a CPU; a convolution that something was added to keeps it."""
        return pack(SplitUpsample(self.conv)) if type(self.conv) is nn.Conv2d else pack(self)


class SplitUpsample(nn.Module):
    """`Upsample` without the doubled map; precisions as in `ldm.core.packed.PackedLinear`.

    Args:
        conv: its convolution.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        weight = self.weight.float()
        self.parts = nn.ModuleList(
            _convolution(_summed(_summed(weight, 2, row), 3, column), conv) for row in range(2) for column in range(2)
        )

    def forward(self, x: Map) -> Doubled:
        """The doubled map, convolved."""
        x = narrowed(x, self.weight.dtype)
        if x.dtype != self.weight.dtype:  # the sums are rounded, these weights are not
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return F.conv2d(F.interpolate(x, scale_factor=2.0), self.weight.to(x.dtype), bias, padding=1)
        b, c, h, w = x.shape
        out = torch.empty(0)
        for i, part in enumerate(self.parts):
            row, column = divmod(i, 2)
            found = part(x)[:, :, row : row + h, column : column + w]
            if i == 0:
                out = found.new_empty(b, c, 2 * h, 2 * w).contiguous(memory_format=torch.channels_last)
            out[:, :, row::2, column::2] = found
        return out


def _summed(weight: Tensor, dim: int, place: int) -> Tensor:
    """Of three weights along `dim` the two of small pixels that an even (0) or odd (1) place sees."""
    first, middle, last = weight.split(1, dim)
    return torch.cat([first, middle + last] if place == 0 else [first + middle, last], dim)


def split(net: nn.Module) -> nn.Module:
    """Split every `Upsample` inside of `net`, in place, without packing anything; returns `net`."""
    for name, child in net.named_children():
        setattr(net, name, SplitUpsample(child.conv) if isinstance(child, Upsample) else split(child))
    return net


def _convolution(weight: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    made = nn.Conv2d(like.in_channels, like.out_channels, 2, padding=1, bias=like.bias is not None, device="meta")
    made.weight, made.bias = nn.Parameter(weight.to(like.weight.dtype), requires_grad=False), like.bias
    return made
