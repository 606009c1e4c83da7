"""Decode and encode a large picture in strips of rows: the same numbers in a fraction of the memory.

A tile that normalises itself has other colours than its neighbours, because a group norm averages over the whole map.
Here no network is run on a tile: it is run layer by layer, and every layer strip by strip. A norm first gathers its
statistics over all strips; a convolution reads the rows beside its strip; norms and activations exist for one strip at
a time. So there is no seam to blend, and the result is the untiled one up to rounding.

The largest map of a decoder, just brought to the full resolution and still wide, is never kept: it is computed twice
from the one below it, once for its statistics and once for use.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.blocks import Downsample, ResBlock, Stage
from autoencoder.model import LOG_VAR_RANGE, Autoencoder, Decoder, Encoder
from ldm.core.gaussian import Gaussian
from ldm.core.shapes import Image, Latent
from ldm.core.upsample import SplitUpsample, Upsample

NUMBERS = 2**21  # in a strip: enough work for a CPU at its full speed, little beside the map
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Map:
    """A feature map that is read by rows, whether it is kept or computed when asked for.

    Attributes:
        rows: rows start to stop (1, c, stop - start, width), both within 0 to `height`.
        size: numbers in one row of all its channels.
        height, width: of the map.
        whole: the map, if it is kept; it belongs to whoever reads it last.
    """

    rows: Callable[[int, int], Tensor]
    size: int
    height: int
    width: int
    whole: Tensor | None = None

    def strips(self) -> Iterator[tuple[int, int]]:
        """Bounds of the strips that cover it."""
        step = max(1, NUMBERS // self.size)
        return ((start, min(start + step, self.height)) for start in range(0, self.height, step))

    def around(self, start: int, stop: int) -> tuple[Tensor, slice]:
        """Rows start to stop with a neighbour above and below where there is one, and where among them they are."""
        low, high = max(start - 1, 0), min(stop + 1, self.height)
        return self.rows(low, high), slice(start - low, stop - low)


def decode_in_strips(model: Autoencoder, z: Latent) -> Image:
    """`model.decode(z)` with less memory: about two maps of the finest resolution at its width."""
    return torch.cat([_decode(model.decoder, one) for one in z.split(1)])


def encode_in_strips(model: Autoencoder, x: Image) -> Gaussian:
    """`model.encode(x)` with less memory."""
    moments = torch.cat([_encode(model.encoder, one) for one in x.split(1)])
    mean, log_var = moments.float().chunk(2, dim=1)
    return Gaussian(mean, log_var.clamp(*LOG_VAR_RANGE).exp())


def _decode(net: Decoder, z: Tensor) -> Tensor:
    x = _kept(net.middle(net.conv_in(net.post_quant(z))))
    for step in _steps(net.stages):
        x = step(x)
    return F.pixel_shuffle(_convolved(net.conv_out, x, _activated(net.norm_out, x)), net.patch)


def _encode(net: Encoder, picture: Tensor) -> Tensor:
    x = _kept(_convolved(net.conv_in, _kept(F.pixel_unshuffle(picture, net.patch)), lambda rows: rows))
    for step in _steps(net.stages):
        x = step(x)
    h = net.middle(x.rows(0, x.height))
    return net.quant(net.conv_out(F.silu(net.norm_out(h))))


def _kept(x: Tensor) -> Map:
    return Map(lambda start, stop: x[:, :, start:stop], x[:, :, 0].numel(), x.shape[-2], x.shape[-1], whole=x)


def _steps(stages: nn.ModuleList) -> Iterator[Callable[[Map], Map]]:
    """Every block and every change of resolution, in order; the caller holds one map at a time."""
    for stage in stages:
        assert isinstance(stage, Stage)
        yield from (partial(_block, block) for block in stage.blocks)
        if isinstance(stage.resample, (Upsample, SplitUpsample)):
            yield partial(_upsampled, stage.resample)
        elif isinstance(stage.resample, Downsample):
            yield partial(_downsampled, stage.resample)


def _block(block: nn.Module, x: Map) -> Map:
    """A residual block. Of `x` it needs the statistics, then each strip once; where it can, it writes over `x`."""
    assert isinstance(block, ResBlock)
    over = isinstance(block.shortcut, nn.Identity) and x.whole is not None
    inner, hidden, out = _activated(block.norm1, x), _Strips(x), _Strips(x, x.whole if over else None)
    for start, stop in x.strips():
        rows, here = x.around(start, stop)
        hidden.put(start, stop, block.conv1(inner(rows))[:, :, here])
        if not over:
            out.put(start, stop, block.shortcut(rows[:, :, here]))
    h = _kept(hidden.whole)
    outer = _activated(block.norm2, h)
    for start, stop in h.strips():
        rows, here = h.around(start, stop)
        out.add(start, stop, block.conv2(outer(rows))[:, :, here])
    return _kept(out.whole)


class _Strips:
    """A map that is put together strip by strip; its memory is taken with the first."""

    def __init__(self, like: Map, whole: Tensor | None = None):
        self.height, self.width = like.height, like.width
        self.whole = torch.empty(0) if whole is None else whole

    def put(self, start: int, stop: int, rows: Tensor) -> None:
        """Write rows start to stop."""
        if not self.whole.numel():
            shape = (*rows.shape[:2], self.height, self.width)
            self.whole = rows.new_empty(shape).contiguous(memory_format=torch.channels_last)
        self.whole[:, :, start:stop] = rows

    def add(self, start: int, stop: int, rows: Tensor) -> None:
        """Add to rows start to stop."""
        self.whole[:, :, start:stop] += rows


def _convolved(conv: nn.Module, x: Map, change: Change) -> Tensor:
    """A 3x3 convolution, padded by one, of a map that is changed point by point before."""
    out = _Strips(x)
    for start, stop in x.strips():
        rows, here = x.around(start, stop)
        out.put(start, stop, conv(change(rows))[:, :, here])
    return out.whole


def _upsampled(resample: nn.Module, x: Map) -> Map:
    """A map of twice the size that is computed when it is read."""

    def rows(start: int, stop: int) -> Tensor:
        low, high = max(start - 1, 0) // 2, min(stop // 2 + 1, x.height)
        return resample(x.rows(low, high))[:, :, start - 2 * low : stop - 2 * low]

    return Map(rows, 2 * x.size, 2 * x.height, 2 * x.width)


def _downsampled(resample: Downsample, x: Map) -> Map:
    """A map of half the size; the padding on the right and bottom is the layer's own."""
    half = Map(x.rows, x.size // 2, x.height // 2, x.width // 2)
    out = _Strips(half)
    for start, stop in half.strips():
        out.put(start, stop, resample(x.rows(2 * start, min(2 * stop + 1, x.height))))
    return _kept(out.whole)


def _activated(norm: nn.Module, x: Map) -> Change:
    """silu(norm(rows)) with the statistics of the whole map: per channel that is what a batch norm does."""
    assert isinstance(norm, nn.GroupNorm)
    mean, var = (y.unflatten(0, (norm.num_groups, -1)) for y in _moments(x))
    centre = mean.mean(1, keepdim=True)
    spread = (var + (mean - centre).square()).mean(1, keepdim=True)
    centre, spread = (y.expand_as(mean).flatten() for y in (centre, spread))
    weight, bias = norm.weight.to(mean.dtype), norm.bias.to(mean.dtype)
    return lambda rows: F.silu(F.batch_norm(rows, centre, spread, weight, bias, eps=norm.eps), inplace=True)


def _moments(x: Map) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel (c,), in float32 or wider, of one pass over the strips.

    The mean of the first strip is taken off before squares are added up, so that a channel far from zero loses nothing.
    One buffer serves all strips: many large tensors that come and go leave holes in a CPU's heap.
    """
    shift, buffer = torch.empty(0), torch.empty(0)
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    for start, stop in x.strips():
        rows = x.rows(start, stop)
        if not sums:
            buffer = torch.empty_like(rows, dtype=torch.promote_types(rows.dtype, torch.float32))
            shift = buffer.copy_(rows).mean((2, 3), keepdim=True)
        part = buffer[:, :, : stop - start].copy_(rows).sub_(shift)
        sums.append(part.sum((0, 2, 3)))
        squares.append(part.square_().sum((0, 2, 3)))
    count = x.height * x.width
    mean = torch.stack(sums).sum(0) / count
    return mean + shift.flatten(), torch.stack(squares).sum(0) / count - mean.square()
