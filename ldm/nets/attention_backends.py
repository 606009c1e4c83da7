"""Ways to compute softmax(q k^T / sqrt(d)) v, and the choice among them.

A kernel is a function; every `Attention` of a network holds one. `automatic` chooses in each call by device, precision
and head size; `use_attention` puts another into a network.
"""

import importlib
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Heads = Float[Tensor, "b n heads d"]
Keys = Float[Tensor, "b m heads d"]
TokenMask = Bool[Tensor, "b m"]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
Backend = Literal["auto", "sdpa", "xformers", "plain"]

# Scores per head up to which training multiplies matrices itself: on a CPU in bfloat16 the backward pass of PyTorch's
# fused kernel takes a fifth of a training step at 8x8 latents, the plain products a small part of that.
SHORT = 64 * 128
SCORES = 2**24  # that `plain` holds at a time: 64 MB in float32
WIDEST = 256  # channels per head up to which CUDA has fused kernels
ON_MPS = (64, 96, 128)  # channels per head for which MPS has one


def plain(q: Heads, k: Keys, v: Keys, mask: TokenMask | None) -> Heads:
    """The formula by matrix products, for as many queries at a time as `SCORES` allows; the softmax in float32.

    Args:
        q: queries (b, n, heads, d).
        k: keys (b, m, heads, d).
        v: values (b, m, heads, d).
        mask: keys that may be looked at (b, m), True = yes; at least one in every row. None: all.

    Returns:
        Weighted means of the values (b, n, heads, d).

    Source: Vaswani et al. 2017 (arXiv:1706.03762) Eq. 1.
    """
    q, keys, values = (q * q.shape[-1] ** -0.5).transpose(1, 2), k.permute(0, 2, 3, 1), v.transpose(1, 2)
    rows = max(1, SCORES // (keys.shape[0] * keys.shape[1] * keys.shape[3]))
    parts = [_products(part, keys, values, mask) for part in q.split(rows, dim=2)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)).transpose(1, 2)


def _products(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ keys
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(-1, dtype=wide).to(values.dtype) @ values


def sdpa(q: Heads, k: Keys, v: Keys, mask: TokenMask | None) -> Heads:
    """PyTorch's own kernel for the device; arguments and result as in `plain`."""
    allowed = None if mask is None else mask[:, None, None, :]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2)


def automatic(q: Heads, k: Keys, v: Keys, mask: TokenMask | None) -> Heads:
    """`sdpa` where it has a fused kernel, else `plain`, which does not hold all scores; `plain` for short training."""
    short = torch.is_grad_enabled() and q.requires_grad and q.shape[1] * k.shape[1] <= SHORT
    return (plain if short or not fused(q.device.type, q.dtype, q.shape[-1]) else sdpa)(q, k, v, mask)


def fused(device: str, dtype: torch.dtype, head_channels: int) -> bool:
    """Whether PyTorch computes attention there without holding all scores; else it multiplies whole matrices."""
    if device == "mps":
        return head_channels in ON_MPS
    return device != "cuda" or (head_channels <= WIDEST and dtype != torch.float64)


def kernel(name: Backend, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Kernel:
    """The kernel called `name`.

    Raises:
        ValueError: it cannot run on `device` in `dtype`; the message says why.
    """
    match name:
        case "auto":
            return automatic
        case "sdpa":
            return sdpa
        case "plain":
            return plain
        case "xformers":
            return _xformers(device, dtype)


def _xformers(device: torch.device | str, dtype: torch.dtype) -> Kernel:
    """xformers' kernel, after it has computed something: it may be installed, and import, without having any.

    Raises:
        ValueError: it is not installed or cannot run here.
    """
    try:
        compute = importlib.import_module("xformers.ops").memory_efficient_attention
    except (ImportError, OSError, AttributeError) as error:
        raise ValueError(f"attention: xformers cannot be imported ({_first_line(error)}); use sdpa") from error

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        bias = None if mask is None else _bias(mask, q)
        return compute(q.contiguous(), k.contiguous(), v.contiguous(), attn_bias=bias)

    try:
        one = torch.ones(1, 8, 1, 64, device=device, dtype=dtype)
        fine = bool(torch.allclose(attend(one, one, one, None), one))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"attention: xformers has no kernel for {dtype} on {device} here ({_first_line(error)}); use sdpa"
        ) from error
    if not fine:
        raise ValueError(f"attention: xformers computes wrong numbers in {dtype} on {device} here; use sdpa")
    return attend


def _bias(mask: Tensor, q: Tensor) -> Tensor:
    """The mask as an addend (b, heads, n, m); its rows start at multiples of eight, as their kernels want it."""
    (b, n, heads, _), m = q.shape, mask.shape[1]
    bias = q.new_zeros(b, 1, 1, -(-m // 8) * 8)
    bias[..., :m].masked_fill_(~mask[:, None, None, :], float("-inf"))
    return bias[..., :m].expand(b, heads, n, m)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
