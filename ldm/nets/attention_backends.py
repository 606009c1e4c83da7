"""Ways to compute softmax(q k^T / sqrt(d)) v, and the choice among them.

A kernel is a function; every `Attention` of a network holds one. `automatic` chooses in each call by device, precision
and head size; `use_attention` puts another into a network.
"""

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ldm.core.precision import narrow

Heads = Float[Tensor, "b n heads d"]
Keys = Float[Tensor, "b m heads d"]
TokenMask = Bool[Tensor, "b m"]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
Backend = Literal["auto", "sdpa", "xformers", "plain"]

# Scores per head up to which training multiplies matrices itself: on a CPU in bfloat16 the backward pass of PyTorch's
# fused kernel takes a fifth of a training step at 8x8 latents, the plain products a small part of that.
SHORT = 64 * 128
SCORES = 2**24  # that `plain` holds at a time: 64 MB in float32
BLOCK = 2**20  # and for each thread of a CPU, where they are to stay in a core's cache: 2 MB in bfloat16
LANES = 16  # a CPU's product with 40 columns takes 1.35 times as long as one with 48
ROUNDS_ONCE = ("cpu", "cuda")  # devices whose softmax of narrow numbers is computed in float32 and then rounded
WIDEST = 256  # channels per head up to which CUDA has fused kernels
ON_MPS = (64, 96, 128)  # channels per head for which MPS has one


def plain(q: Heads, k: Keys, v: Keys, mask: TokenMask | None) -> Heads:
    """The formula by matrix products, for as many heads and queries at a time as `SCORES` or `BLOCK` allows.

    The softmax is computed in float32 or wider.

    Args:
        q: queries (b, n, heads, d).
        k: keys (b, m, heads, d).
        v: values (b, m, heads, d).
        mask: keys that may be looked at (b, m), True = yes; at least one in every row. None: all.

    Returns:
        Weighted means of the values (b, n, heads, d).

    Source: Vaswani et al. 2017 (arXiv:1706.03762) Eq. 1.
    """
    (b, n, heads, d), m = q.shape, k.shape[1]
    held = _held(q.device)
    pairs, rows = max(1, held // (n * m)), max(1, held // m)  # of picture and head; queries
    q, k, v = ((q * q.shape[-1] ** -0.5).transpose(1, 2), k.permute(0, 2, 3, 1), v.transpose(1, 2))
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    v = F.pad(v, (0, -d % LANES)) if q.device.type == "cpu" and d > LANES else v
    hidden = None if mask is None else ~mask.repeat_interleave(heads, 0)[:, None, :]
    if _reusable(q, k, v):
        out = _in_place(q, k, v, hidden, min(pairs, len(q)), min(rows, n))
    else:
        parts = []
        for at in (slice(i, i + pairs) for i in range(0, b * heads, pairs)):
            without = None if hidden is None else hidden[at]
            parts.append(_joined([_products(x, k[at], v[at], without) for x in q[at].split(rows, dim=1)], 1))
        out = _joined(parts, 0)
    return out[..., :d].unflatten(0, (b, heads)).transpose(1, 2)


def _held(device: torch.device) -> int:
    """Scores at a time; compiled, one block is one operation, and the number of threads cannot be asked."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        return SCORES
    return min(SCORES, BLOCK * torch.get_num_threads())


def _reusable(*tensors: Tensor) -> bool:
    """Whether one block of scores may be written over another: on a CPU, where no gradient will ask for them."""
    if tensors[0].device.type != "cpu" or torch.compiler.is_compiling() or len({x.dtype for x in tensors}) > 1:
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _in_place(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, pairs: int, rows: int) -> Tensor:
    """All results in one tensor and all scores in another: thousands of small ones would leave a heap in pieces."""
    scores_of, out = q.new_empty(pairs, rows, k.shape[-1]), q.new_empty(len(q), q.shape[1], v.shape[-1])
    for i in range(0, len(q), pairs):
        at = slice(i, i + pairs)
        for j in range(0, q.shape[1], rows):
            some = q[at, j : j + rows]
            scores = torch.bmm(some, k[at], out=scores_of[: len(some), : some.shape[1]])
            if hidden is not None:
                scores.masked_fill_(hidden[at], float("-inf"))
            torch.bmm(torch.softmax(scores, -1, out=scores), v[at], out=out[at, j : j + rows])
    return out


def _products(q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
    scores = q @ keys
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    if scores.device.type in ROUNDS_ONCE:
        return scores.softmax(-1) @ values
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype) @ values


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def sdpa(q: Heads, k: Keys, v: Keys, mask: TokenMask | None) -> Heads:
    """PyTorch's own kernel for the device; arguments and result as in `plain`."""
    allowed = None if mask is None else mask[:, None, None, :]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2)


def automatic(q: Heads, k: Keys, v: Keys, mask: TokenMask | None) -> Heads:
    """`sdpa` where it has a fused kernel that pays; else xformers' where it has one, for heads too wide for the former;
    else `plain`, which does not hold all scores either.
    """
    if fused(q.device.type, q.dtype, q.shape[-1]):
        return (sdpa if _pays(q, k) else plain)(q, k, v, mask)
    return (_wide(q.device, q.dtype) or plain)(q, k, v, mask)


def _wide(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """xformers' kernel where it is installed and runs; it goes on beyond `WIDEST` channels per head."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return None
    return _found(device, dtype)


@lru_cache(maxsize=16)
def _found(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    try:
        return _xformers(device, dtype, 2 * WIDEST)
    except ValueError:
        return None


def _pays(q: Heads, k: Keys) -> bool:
    """Whether PyTorch's fused kernel is faster than whole products.

    On a CPU in bfloat16 its inner products run at the rate of float32 unless it has matrix tiles (AMX): `plain` takes
    0.57 to 0.80 of its time at the shapes of Stable Diffusion (`benchmarks/attention.py`).
    """
    if torch.is_grad_enabled() and q.requires_grad:
        return q.shape[1] * k.shape[1] > SHORT
    if torch.compiler.is_compiling():  # it would write out every block, and what follows breaks its graph
        return True
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
    return not slow or narrow("cpu") != torch.bfloat16


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


def _xformers(device: torch.device | str, dtype: torch.dtype, channels: int = 64) -> Kernel:
    """xformers' kernel, after it has computed something: it may be installed, and import, without having any.

    Args:
        device, dtype: where it is to run.
        channels: per head that it is tried with.

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
        one = torch.ones(1, 8, 1, channels, device=device, dtype=dtype)
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
