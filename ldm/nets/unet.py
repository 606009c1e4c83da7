"""The denoising backbone: a U-Net with attention to itself and to words. It knows nothing of diffusion."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.shapes import PerImage
from ldm.core.upsample import Upsample
from ldm.nets.attention import SpatialTransformer, only_words, zeroed
from ldm.nets.blocks import DownLevel, Downsample, Layer, ResBlock, UpLevel
from ldm.nets.cond import Cond
from ldm.nets.embeddings import VectorMLP, sinusoids


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """Shape of a `UNet`. The defaults are Stable Diffusion 1; version 2 is `head_channels=64, heads=None,
    context_dim=1024, linear_projection=True`.

    A level is a resolution; level 0 is that of the input, each further one half of it. Where a field allows both,
    one number holds for every level and a tuple gives one number per level.

    Attributes:
        in_channels: channels of `x`.
        out_channels: channels of the result (twice `in_channels` for a learned variance).
        channels: width of level 0, even; the embedding of the noise level is four times as wide.
        mult: width of each level in units of `channels`; its length is the number of levels.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention_levels: levels whose residual blocks are followed by a transformer. The middle always has one.
        heads: attention heads, the same number at every width; excludes `head_channels`.
        head_channels: channels per head, the same at every width; excludes `heads`.
        depth: transformer layers per transformer; the middle has the depth of the last level.
        ff_mult: hidden width of the feed-forward layers, in units of the level's width.
        context_dim: width of `Cond.tokens`; 0: no cross-attention, the tokens are ignored.
        linear_projection: transformers enter and leave by linear layers rather than 1x1 convolutions.
        pooled_dim: width of `Cond.pooled`; 0: ignored.
        cond_channels: channels of `Cond.channels`, appended to `x`; 0: must be absent.
        distilled: range of the guidance scales that a distilled network was taught; it then reads `Cond.scale` and
            `Cond.stride`. None: it reads neither.
        dropout: share of activations dropped in each residual block while training, in [0, 1).
        norm_groups: groups of every group normalisation; divides every width.
        scale_shift: the embedding scales and shifts the residual blocks instead of being added.
        checkpoint: recompute activations in the backward pass: less memory, about a third more time.
    """

    kind: Literal["unet"] = "unet"
    in_channels: int = 4
    out_channels: int = 4
    channels: int = 320
    mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int | tuple[int, ...] = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    heads: int | None = 8
    head_channels: int | None = None
    depth: int | tuple[int, ...] = 1
    ff_mult: int = 4
    context_dim: int = 768
    linear_projection: bool = False
    pooled_dim: int = 0
    cond_channels: int = 0
    distilled: tuple[float, float] | None = None
    dropout: float = 0.0
    norm_groups: int = 32
    scale_shift: bool = False
    checkpoint: bool = False

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_levels()
        self._check_widths()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * m for m in self.mult)

    def per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        """Spread a field that may be one number over the levels."""
        return (value,) * len(self.mult) if isinstance(value, int) else tuple(value)

    def heads_at(self, width: int) -> int:
        """Attention heads at a width."""
        return width // self.head_channels if self.head_channels else int(self.heads or 0)

    def _check_counts(self) -> None:
        for name in ("in_channels", "out_channels", "channels", "ff_mult", "norm_groups"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("context_dim", "pooled_dim", "cond_channels"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 (not used) or more")
        _require(self.channels % 2 == 0, "channels", self.channels, "even (half cosines, half sines)")
        _require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "in [0, 1)")

    def _check_levels(self) -> None:
        levels = len(self.mult)
        _require(levels >= 1 and min(self.mult) >= 1, "mult", self.mult, "a non-empty list of positive integers")
        for name in ("blocks", "depth"):
            values = self.per_level(getattr(self, name))
            ok = len(values) == levels and min(values) >= 1
            _require(ok, name, getattr(self, name), f"a positive integer, or {levels} of them (one per entry of mult)")
        inside = all(0 <= level < levels for level in self.attention_levels)
        _require(inside, "attention_levels", self.attention_levels, f"levels from 0 to {levels - 1}")

    def _check_widths(self) -> None:
        chosen = [n for n in (self.heads, self.head_channels) if n is not None]
        ok = len(chosen) == 1 and chosen[0] >= 1
        both = (self.heads, self.head_channels)
        _require(ok, "heads, head_channels", both, "one positive integer and one null")
        for width in self.widths:
            fits = width % self.norm_groups == 0
            _require(fits, "norm_groups", self.norm_groups, f"a divisor of every width, here {self.widths}")
        for level in {*self.attention_levels, len(self.mult) - 1}:
            fits = self.widths[level] % chosen[0] == 0
            _require(fits, "heads, head_channels", both, f"divisors of the widths that attend, here {self.widths}")


def _require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ValueError(f"unet.{name} is {value}; must be {allowed}")


class UNet(nn.Module):
    """Encoder and decoder with a skip from every encoder layer to its mirror image in the decoder.

    The output convolution starts at zero, so a new network returns exactly 0.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597); with attention and time, Ho et al. 2020 (arXiv:2006.11239)
    appendix B; with cross-attention, Rombach et al. 2022 (arXiv:2112.10752) section 3.3.
    """

    def __init__(self, spec: UNetSpec):
        super().__init__()
        self.spec = spec
        emb_dim = 4 * spec.channels
        self.time_embed = VectorMLP(spec.channels, emb_dim)
        self.pooled_embed = VectorMLP(spec.pooled_dim, emb_dim) if spec.pooled_dim else None
        self.distilled_embed = None
        if spec.distilled is not None:
            self.distilled_embed = VectorMLP(2 * spec.channels, emb_dim)
            zeroed(self.distilled_embed.linear2)  # so that a student starts as its teacher
        self.conv_in = nn.Conv2d(spec.in_channels + spec.cond_channels, spec.channels, 3, padding=1)
        self.down, skips = _encoder(spec, emb_dim)
        last, width = len(spec.mult) - 1, spec.widths[-1]
        self.middle = nn.ModuleList(
            [_layer(spec, width, width, emb_dim, last, attend=True), _layer(spec, width, width, emb_dim, last)]
        )
        self.up = _decoder(spec, emb_dim, skips)
        self.norm_out = nn.GroupNorm(spec.norm_groups, spec.channels)
        self.conv_out = zeroed(nn.Conv2d(spec.channels, spec.out_channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"], c_noise: PerImage, cond: Cond) -> Float[Tensor, "b c_out h w"]:
        """Run the network.

        Args:
            x: input (b, in_channels, h, w); h and w multiples of 2^(levels - 1).
            c_noise: noise level in the network's own units (b,), e.g. steps from 0 to 999; kept in float32.
            cond: conditions of the same b images.

        Returns:
            (b, out_channels, h, w).

        Raises:
            ValueError: `x` or a field of `cond` does not have the shape that the spec asks for.
        """
        _check_inputs(self.spec, x, cond)
        if cond.channels is not None:
            x = torch.cat([x, cond.channels.to(x.dtype)], dim=1)
        emb = self._embed(c_noise, cond)
        tokens, mask = only_words(cond.tokens, cond.mask)
        skips = [self.conv_in(x)]
        for level in self.down:
            skips += level(skips[-1], emb, tokens, mask)
        x = skips[-1]
        for layer in self.middle:
            x = layer(x, emb, tokens, mask)
        for level in self.up:
            x = level(x, skips, emb, tokens, mask)
        return self.conv_out(F.silu(self.norm_out(x)))

    def _embed(self, c_noise: PerImage, cond: Cond) -> Tensor:
        """All that is one vector for the whole picture, added up (b, 4 channels), with its activation."""
        emb = self.time_embed(sinusoids(c_noise, self.spec.channels))
        if self.pooled_embed is not None:
            emb = emb + self.pooled_embed(cond.pooled)
        if self.distilled_embed is not None:
            emb = emb + self.distilled_embed(self._distilled(cond))
        return F.silu(emb)

    def _distilled(self, cond: Cond) -> Tensor:
        """Guidance scale and stride as sinusoids (b, 2 channels), each spread over 0 to 1000 as timesteps are."""
        assert self.spec.distilled is not None and cond.scale is not None and cond.stride is not None
        lowest, highest = self.spec.distilled
        units = (1000 * (cond.scale - lowest) / (highest - lowest), 1000 * cond.stride)
        return torch.cat([sinusoids(unit, self.spec.channels) for unit in units], dim=1)


def _layer(spec: UNetSpec, c_in: int, c_out: int, emb_dim: int, level: int, *, attend: bool = False) -> Layer:
    res = ResBlock(
        c_in, c_out, emb_dim, norm_groups=spec.norm_groups, dropout=spec.dropout, scale_shift=spec.scale_shift
    )
    transformer = None
    if attend:
        transformer = SpatialTransformer(
            c_out,
            heads=spec.heads_at(c_out),
            depth=spec.per_level(spec.depth)[level],
            context_dim=spec.context_dim,
            linear_projection=spec.linear_projection,
            ff_mult=spec.ff_mult,
            norm_groups=spec.norm_groups,
        )
    return Layer(res, transformer, recompute=spec.checkpoint)


def _encoder(spec: UNetSpec, emb_dim: int) -> tuple[nn.ModuleList, list[int]]:
    """Levels from fine to coarse, and the width of every skip in the order they are made."""
    levels, skips, c_in = nn.ModuleList(), [spec.channels], spec.channels
    for level, (width, blocks) in enumerate(zip(spec.widths, spec.per_level(spec.blocks), strict=True)):
        layers = []
        for _ in range(blocks):
            layers.append(_layer(spec, c_in, width, emb_dim, level, attend=level in spec.attention_levels))
            skips.append(width)
            c_in = width
        last = level == len(spec.mult) - 1
        levels.append(DownLevel(layers, None if last else Downsample(width)))
        if not last:
            skips.append(width)
    return levels, skips


def _decoder(spec: UNetSpec, emb_dim: int, skips: list[int]) -> nn.ModuleList:
    """Levels from coarse to fine, each consuming the skips of its mirror image from the end of `skips`."""
    levels, skips, c_in = nn.ModuleList(), list(skips), spec.widths[-1]
    for level in reversed(range(len(spec.mult))):
        width, layers = spec.widths[level], []
        for _ in range(spec.per_level(spec.blocks)[level] + 1):
            c_joined = c_in + skips.pop()
            layers.append(_layer(spec, c_joined, width, emb_dim, level, attend=level in spec.attention_levels))
            c_in = width
        levels.append(UpLevel(layers, None if level == 0 else Upsample(width)))
    return levels


def _check_inputs(spec: UNetSpec, x: Tensor, cond: Cond) -> None:
    """Refuse inputs that do not fit the spec, by name."""
    multiple = 2 ** (len(spec.mult) - 1)
    if x.shape[1] != spec.in_channels:
        raise ValueError(f"x has {x.shape[1]} channels; unet.in_channels is {spec.in_channels}")
    if x.shape[2] % multiple or x.shape[3] % multiple:
        raise ValueError(f"x is {x.shape[2]}x{x.shape[3]}; height and width must be multiples of {multiple}")
    if spec.context_dim and cond.tokens.shape[-1] != spec.context_dim:
        raise ValueError(f"cond.tokens is {cond.tokens.shape[-1]} wide; unet.context_dim is {spec.context_dim}")
    if spec.pooled_dim and (cond.pooled is None or cond.pooled.shape[-1] != spec.pooled_dim):
        found = "absent" if cond.pooled is None else f"{cond.pooled.shape[-1]} wide"
        raise ValueError(f"cond.pooled is {found}; unet.pooled_dim is {spec.pooled_dim}")
    wanted = spec.distilled is not None
    for name, value in (("scale", cond.scale), ("stride", cond.stride)):
        if (value is not None) != wanted:
            found = "absent" if value is None else "there"
            raise ValueError(f"cond.{name} is {found}; unet.distilled is {spec.distilled}")
    extra = 0 if cond.channels is None else cond.channels.shape[1]
    if extra != spec.cond_channels:
        raise ValueError(f"cond.channels has {extra} channels; unet.cond_channels is {spec.cond_channels}")
    if cond.channels is not None and cond.channels.shape[2:] != x.shape[2:]:
        (h, w), (x_h, x_w) = cond.channels.shape[2:], x.shape[2:]
        raise ValueError(f"cond.channels is {h}x{w}, x is {x_h}x{x_w}; resize it to the latents")
