"""Attention between pixels, and from pixels to words."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.packed import PackedLinear, pack, plus
from ldm.nets.attention_backends import Kernel, TokenMask, automatic

Tokens = Float[Tensor, "b n d"]


def only_words(tokens: Tokens, mask: TokenMask | None) -> tuple[Tokens, TokenMask | None]:
    """Make padding harmless: zero it, and let a row without any word look at its zeros.

    Keys and values have no bias, so such a row receives exactly zero from the attention, instead of the NaN that a
    softmax over nothing gives. Padding may hold anything, even NaN.

    Returns:
        Tokens (b, n, d) and a mask (b, n) with at least one True in every row, fit for `attend`.
    """
    if mask is None:
        return tokens, None
    return tokens.masked_fill(~mask[:, :, None], 0.0), mask | ~mask.any(dim=1, keepdim=True)


class Attention(nn.Module):
    """Multi-head attention from `x` to `context` (to itself if that is None): (b, n, dim) -> (b, n, dim).

    Args:
        dim: width of `x`, a multiple of `heads`.
        context_dim: width of `context`.
        heads: number of heads.

    Attributes:
        kernel: how it is computed; `use_attention` chooses another.
    """

    def __init__(self, dim: int, context_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.kernel: Kernel = automatic
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self, x: Tokens, residual: Tokens, context: Tensor | None = None, mask: TokenMask | None = None
    ) -> Tokens:
        """`residual` and what is attended to; `mask` (b, m) says which rows of `context` (b, m, context_dim) count."""
        source = x if context is None else context
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (self.to_q(x), self.to_k(source), self.to_v(source)))
        return plus(self.to_out, self.kernel(q, k, v, mask).flatten(2), residual)


def use_attention(net: nn.Module, kernel: Kernel) -> None:
    """Let every `Attention` inside of `net` be computed by `kernel`."""
    for module in net.modules():
        if isinstance(module, Attention):
            module.kernel = kernel


class FeedForward(nn.Module):
    """Gated feed-forward (GEGLU): W_out (a * gelu(g)), with (a, g) = W_in x from one matrix product.

    Source: Shazeer 2020 (arXiv:2002.05202) Eq. 6.
    """

    def __init__(self, dim: int, mult: int):
        super().__init__()
        self.linear_in = nn.Linear(dim, 2 * mult * dim)
        self.linear_out = nn.Linear(mult * dim, dim)

    def forward(self, x: Tokens, residual: Tokens) -> Tokens:
        """(b, n, dim) -> (b, n, dim), added to `residual`."""
        value, gate = self.linear_in(x).chunk(2, dim=-1)
        return plus(self.linear_out, value * F.gelu(gate), residual)

    def packed(self) -> nn.Module:
        """The same function for a CPU, see `ldm.core.packed`; adapted layers keep what was added to them."""
        plain = type(self.linear_in) is nn.Linear and type(self.linear_out) is nn.Linear
        return PackedFeedForward(self) if plain else pack(self)


class PackedFeedForward(nn.Module):
    """`FeedForward` as three products that apply the gelu, the gate and the residual as they go.

    Args:
        layer: what to pack.
    """

    def __init__(self, layer: FeedForward):
        super().__init__()
        (value, gate), (value_bias, gate_bias) = layer.linear_in.weight.chunk(2), layer.linear_in.bias.chunk(2)
        self.value, self.gate = PackedLinear(value, value_bias), PackedLinear(gate, gate_bias)
        self.linear_out = PackedLinear(layer.linear_out.weight, layer.linear_out.bias)

    def forward(self, x: Tokens, residual: Tokens) -> Tokens:
        """(b, n, dim) -> (b, n, dim), added to `residual`."""
        return self.linear_out.plus(self.value.times(x, self.gate.gelu(x)), residual)


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention to the words (left out if `context_dim` is 0), feed-forward; all residual."""

    def __init__(self, dim: int, heads: int, context_dim: int, ff_mult: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, dim, heads)
        self.norm2 = nn.LayerNorm(dim) if context_dim else None
        self.cross_attention = Attention(dim, context_dim, heads) if context_dim else None
        self.norm3 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, ff_mult)

    def forward(self, x: Tokens, context: Tensor, mask: TokenMask | None) -> Tokens:
        """(b, n, dim) -> (b, n, dim), with words `context` (b, m, context_dim) and their `mask` (b, m)."""
        x = self.self_attention(self.norm1(x), x)
        if self.norm2 is not None and self.cross_attention is not None:
            x = self.cross_attention(self.norm2(x), x, context, mask)
        return self.feed_forward(self.norm3(x), x)


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Zero the weights of `layer`, the last of a residual branch, so that the branch starts as nothing; returns it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _projection(channels: int, linear: bool) -> nn.Linear | nn.Conv2d:
    return nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)


class SpatialTransformer(nn.Module):
    """Transformer layers over the pixels of a feature map, as a residual branch that starts at zero.

    A channels-last map is read as tokens and written back without a copy.

    Args:
        channels: width of the map.
        heads: attention heads, a divisor of `channels`.
        depth: transformer layers.
        context_dim: width of the words; 0: no cross-attention.
        linear_projection: project with linear layers on tokens (Stable Diffusion 2) rather than 1x1 convolutions
            on the map (Stable Diffusion 1). The same function with weights of another shape.
        ff_mult: hidden width of the feed-forward, in units of `channels`.
        norm_groups: groups of the input normalisation.

    Source: Rombach et al. 2022 (arXiv:2112.10752) appendix E.2.1.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        depth: int,
        context_dim: int,
        linear_projection: bool,
        ff_mult: int,
        norm_groups: int,
    ):
        super().__init__()
        self.linear_projection = linear_projection
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = _projection(channels, linear_projection)
        self.layers = nn.ModuleList(TransformerLayer(channels, heads, context_dim, ff_mult) for _ in range(depth))
        self.proj_out = zeroed(_projection(channels, linear_projection))

    def forward(self, x: Float[Tensor, "b c h w"], context: Tensor, mask: TokenMask | None) -> Float[Tensor, "b c h w"]:
        """Mix the pixels of `x` with each other and with the words `context` (b, m, context_dim)."""
        b, c, h, w = x.shape
        y = self.norm(x)
        if not self.linear_projection:
            y = self.proj_in(y)
        y = y.permute(0, 2, 3, 1).reshape(b, h * w, c)
        if self.linear_projection:
            y = self.proj_in(y)
        for layer in self.layers:
            y = layer(y, context, mask)
        if self.linear_projection:
            return x + _as_map(self.proj_out(y), h, w)
        return plus(self.proj_out, _as_map(y, h, w), x)


def _as_map(tokens: Tensor, h: int, w: int) -> Tensor:
    """(b, h w, c) -> (b, c, h, w), a view in channels-last order."""
    return tokens.unflatten(1, (h, w)).permute(0, 3, 1, 2)
