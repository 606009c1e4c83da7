"""Every way to compute attention is the formula, and says so when it cannot run."""

import math
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.nets import attention_backends
from ldm.nets.attention_backends import SHORT, automatic, fused, kernel, plain, sdpa


def formula(q, k, v, mask):
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)


def stub(monkeypatch, compute):
    """Put a module in the place of xformers."""
    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    ops.memory_efficient_attention = compute
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)


def with_bias(q, k, v, attn_bias=None):
    """What xformers documents of its kernel: (b, n, heads, d), an addend (b, heads, n, m)."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    if attn_bias is not None:
        assert attn_bias.shape == scores.shape and attn_bias.stride(0) % 8 == 0
        scores = scores + attn_bias
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["auto", "sdpa", "plain", "xformers"])
@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(1, 99)
)
def test_a_kernel_is_the_formula(name, training, masked, b, n, m, heads, d, held):
    q, k, v = (torch.randn(b, rows, heads, d, dtype=torch.float64).requires_grad_(training) for rows in (n, m, m))
    mask = (torch.rand(b, m) < 0.5).index_fill(1, torch.tensor(0), True) if masked else None
    with pytest.MonkeyPatch.context() as patch:
        stub(patch, with_bias)
        patch.setattr(attention_backends, "BLOCK", held)
        torch.testing.assert_close(kernel(name)(q, k, v, mask), formula(q, k, v, mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_scores_become_weights_in_float32(dtype):
    scores = (8 * torch.randn(3, 5, 77)).to(dtype)
    assert torch.equal(scores.softmax(-1), scores.float().softmax(-1).to(dtype))
    q, k, v = (torch.randn(2, rows, 3, 20) for rows in (9, 7, 7))
    off = plain(q.to(dtype), k.to(dtype), v.to(dtype), None).float() - formula(q, k, v, None)
    assert off.std() < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("tiles", "grad", "taken"), [(False, False, "plain"), (True, False, "sdpa"), (False, True, "sdpa")]
)
def test_whole_products_in_bfloat16_where_a_cpu_has_no_tiles(tiles, grad, taken, monkeypatch):
    monkeypatch.setattr(attention_backends, "narrow", lambda device: torch.bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    called = []
    for name in ("plain", "sdpa"):
        monkeypatch.setattr(attention_backends, name, lambda q, *_, name=name: called.append(name) or q)
    q = torch.zeros(1, SHORT, 1, 8, dtype=torch.bfloat16, requires_grad=grad)
    automatic(q, q, q, None)
    automatic(q.float(), q.float(), q.float(), None)
    assert called == [taken, "sdpa"]


@pytest.mark.parametrize("limit", [0, SHORT])
def test_both_ways_of_training_have_the_gradients_of_the_formula(limit, monkeypatch):
    monkeypatch.setattr(attention_backends, "SHORT", limit)
    leaves = [torch.randn(2, rows, 3, 4, dtype=torch.float64, requires_grad=True) for rows in (5, 6, 6)]
    mask, weight = torch.tensor([[True] * 6, [True] * 2 + [False] * 4]), torch.randn(2, 5, 3, 4).double()
    ours = torch.autograd.grad((automatic(*leaves, mask) * weight).sum(), leaves)
    torch.testing.assert_close(ours, torch.autograd.grad((formula(*leaves, mask) * weight).sum(), leaves))
    assert not ours[2][1, 2:].any()  # a masked value receives no gradient


@pytest.mark.parametrize("attend", [automatic, plain, sdpa])
def test_attending_to_one_key_returns_its_value(attend):
    q, k, v = torch.randn(2, 5, 3, 4), torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[:, 4] = True
    torch.testing.assert_close(attend(q, k, v, mask), v[:, 4:5].expand(2, 5, 3, 4))


def test_whole_scores_are_not_held_where_no_fused_kernel_is():
    assert fused("cuda", torch.bfloat16, 256) and not fused("cuda", torch.bfloat16, 512)
    assert not fused("cuda", torch.float64, 64) and fused("cpu", torch.float64, 64)
    assert fused("mps", torch.float16, 64) and not fused("mps", torch.float16, 40)


@pytest.mark.parametrize("compute", [with_bias, None])
def test_heads_too_wide_for_pytorch_on_cuda_go_to_xformers_where_it_runs(compute, monkeypatch):
    called = []
    for name in ("plain", "sdpa"):
        monkeypatch.setattr(attention_backends, name, lambda q, *_, name=name: called.append(name) or q)
    # a CPU stands in for the card: what is chosen is looked at, not what a kernel of CUDA computes
    monkeypatch.setattr(attention_backends, "fused", lambda device, dtype, d: fused("cuda", dtype, d))
    monkeypatch.setattr(attention_backends, "_wide", lambda device, dtype: attention_backends._found(device, dtype))
    attention_backends._found.cache_clear()
    if compute is None:
        monkeypatch.setitem(sys.modules, "xformers.ops", None)
    else:
        stub(monkeypatch, lambda *args, **kwargs: called.append("xformers") or compute(*args, **kwargs))
    narrow, wide = (torch.ones(1, 4, 1, d) for d in (256, 512))
    automatic(narrow, narrow, narrow, None)
    assert called == ["sdpa"]
    automatic(wide, wide, wide, None)
    assert called[-1] == ("plain" if compute is None else "xformers")
    attention_backends._found.cache_clear()


def no_kernel(q, k, v, attn_bias=None):
    raise NotImplementedError("No operator found for `memory_efficient_attention_forward` with inputs:\n   q: ...")


@pytest.mark.parametrize(
    ("compute", "message"),
    [(no_kernel, "has no kernel.*No operator found"), (lambda q, k, v, attn_bias=None: 2 * v, "wrong numbers")],
)
def test_an_xformers_without_kernels_is_refused_in_one_line(compute, message, monkeypatch):
    stub(monkeypatch, compute)
    with pytest.raises(ValueError, match=message) as refusal:
        kernel("xformers")
    assert "\n" not in str(refusal.value)


def test_a_backend_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with pytest.raises(ValueError, match="xformers cannot be imported"):
        kernel("xformers")
