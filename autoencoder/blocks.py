"""Building blocks of the convolutional autoencoder: residual block, single-head attention, change of resolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.core.packed import plus

EPS = 1e-6  # of every group norm, as in Stable Diffusion's autoencoder


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group norm over `channels`, in at most `groups` groups that divide them."""
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels, eps=EPS)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x) of a map that nothing else needs: in its own memory where no gradient is taken."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on the shortcut when the width changes."""

    def __init__(self, channels_in: int, channels_out: int, groups: int):
        super().__init__()
        self.norm1 = norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels_in, h, w) to (b, channels_out, h, w)."""
        h = self.conv1(silu(self.norm1(x)))
        return plus(self.conv2, silu(self.norm2(h)), self.shortcut(x))


class Attention(nn.Module):
    """Residual single-head self-attention over all positions."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) to the same shape."""
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return plus(self.out, attended.transpose(1, 2).reshape(x.shape), x)


class Downsample(nn.Module):
    """Halve the resolution: stride-2 convolution, padded on the right and bottom only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) to (b, c, h / 2, w / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Stage(nn.Module):
    """The residual blocks of one resolution, then an optional change to the next."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, groups: int, resample: nn.Module | None):
        super().__init__()
        widths = [channels_in, *[channels_out] * blocks]
        self.blocks = nn.ModuleList([ResBlock(a, b, groups) for a, b in zip(widths, widths[1:], strict=False)])
        self.resample = resample if resample is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels_in, h, w) to (b, channels_out, h', w')."""
        for block in self.blocks:
            x = block(x)
        return self.resample(x)


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, groups: int, attention: bool):
        super().__init__()
        self.block1 = ResBlock(channels, channels, groups)
        self.attention = Attention(channels, groups) if attention else nn.Identity()
        self.block2 = ResBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) to the same shape."""
        return self.block2(self.attention(self.block1(x)))
