"""What a U-Net is assembled from: residual blocks that know the noise level, levels, and steps between levels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.core.packed import plus
from ldm.core.upsample import Upsample
from ldm.nets.attention import SpatialTransformer, TokenMask, Tokens, zeroed

Map = Float[Tensor, "b c h w"]
MapOut = Float[Tensor, "b c_out h w"]  # the same resolution, perhaps another width
Vector = Float[Tensor, "b emb"]


class ResBlock(nn.Module):
    """Wide-ResNet block that is told the noise level: (b, c_in, h, w) -> (b, c_out, h, w).

        y = conv1(silu(norm1(x)))
        y = norm2(y + W emb)                      or, with `scale_shift`, norm2(y) (1 + s) + t, (s, t) = W emb
        out = skip(x) + conv2(dropout(silu(y)))

    conv2 starts at zero, so a new block is its skip: the identity, or a 1x1 convolution where the width changes.

    Source: Ho et al. 2020 (arXiv:2006.11239) appendix B; scale and shift: Dhariwal and Nichol 2021
    (arXiv:2105.05233) section 3.1.

    Args:
        c_in, c_out: widths, multiples of `norm_groups`.
        emb_dim: width of the embedding.
        norm_groups: groups of both normalisations.
        dropout: probability in [0, 1).
        scale_shift: modulate after the second normalisation instead of adding before it.
    """

    def __init__(self, c_in: int, c_out: int, emb_dim: int, *, norm_groups: int, dropout: float, scale_shift: bool):
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = nn.GroupNorm(norm_groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * c_out if scale_shift else c_out)
        self.norm2 = nn.GroupNorm(norm_groups, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Map, emb: Vector) -> MapOut:
        """`emb` (b, emb_dim) has had its activation already (it is the same for every block)."""
        y = self.conv1(F.silu(self.norm1(x)))
        condition = self.emb(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            y = self.norm2(y) * (1 + scale) + shift
        else:
            y = self.norm2(y + condition)
        return plus(self.conv2, self.dropout(F.silu(y)), self.skip(x))


class Downsample(nn.Module):
    """Halve height and width (both even) by a strided 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Map) -> Float[Tensor, "b c h//2 w//2"]:
        return self.conv(x)


class Layer(nn.Module):
    """A residual block and, where the level attends, a transformer: (b, c_in, h, w) -> (b, c_out, h, w).

    With `recompute`, activations are not kept for the backward pass but computed again.
    """

    def __init__(self, res: ResBlock, attention: SpatialTransformer | None, *, recompute: bool):
        super().__init__()
        self.res = res
        self.attention = attention
        self.recompute = recompute

    def forward(self, x: Map, emb: Vector, tokens: Tokens, mask: TokenMask | None) -> MapOut:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._run, x, emb, tokens, mask, use_reentrant=False)
        return self._run(x, emb, tokens, mask)

    def _run(self, x: Tensor, emb: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        x = self.res(x, emb)
        return x if self.attention is None else self.attention(x, tokens, mask)


class DownLevel(nn.Module):
    """The encoder's layers at one resolution, then the step to the next coarser one if there is one."""

    def __init__(self, layers: list[Layer], downsample: Downsample | None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.downsample = downsample

    def forward(self, x: Map, emb: Vector, tokens: Tokens, mask: TokenMask | None) -> list[Tensor]:
        """Every feature map made on the way, each a skip for the decoder; the last one goes on."""
        maps = []
        for layer in self.layers:
            x = layer(x, emb, tokens, mask)
            maps.append(x)
        if self.downsample is not None:
            maps.append(self.downsample(x))
        return maps


class UpLevel(nn.Module):
    """The decoder's layers at one resolution, each reading one skip, then the step to the next finer one if any."""

    def __init__(self, layers: list[Layer], upsample: Upsample | None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.upsample = upsample

    def forward(self, x: Map, skips: list[Tensor], emb: Vector, tokens: Tokens, mask: TokenMask | None) -> Tensor:
        """Takes its skips off the end of `skips`, so that their memory is free as soon as they are read."""
        for layer in self.layers:
            x = layer(torch.cat([x, skips.pop()], dim=1), emb, tokens, mask)
        return x if self.upsample is None else self.upsample(x)
