"""Fewer products are the convolution all the same, for any size, and for each picture by itself."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ldm.core.packed import PackedConv2d, can_pack
from ldm.core.winograd import FEWEST, NARROWEST, SIDE, WIDEST, Winograd, fits, transformed_bytes


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.booleans())
@torch.inference_mode()
def test_it_is_the_convolution(b, c, k, h, w, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, weight = torch.randn(b, c, h, w).contiguous(memory_format=layout), torch.randn(k, c, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    found = Winograd(weight)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - exact).abs().max() < 2e-5 * (9 * c) ** 0.5
    assert torch.equal(Winograd(weight)(x[-1:]), found[-1:])  # whatever else is in the batch


def test_it_is_taken_for_many_pixels_and_not_too_many_channels():
    side = SIDE * int(FEWEST**0.5)
    assert fits(320, 320, side, side) and not fits(320, 320, side, side - SIDE)
    assert not fits(NARROWEST - 1, 320, side, side) and not fits(320, NARROWEST - 1, side, side)
    assert not fits(320, WIDEST // 320 + 1, side, side) and transformed_bytes(320, WIDEST // 320 + 1) == 0
    assert transformed_bytes(64, 64) == 4 * 64 * 64 * 36 == 4 * Winograd(torch.zeros(64, 64, 3, 3))._weight.numel()


@pytest.mark.skipif(not can_pack(torch.device("cpu"), torch.float32), reason="packing is for x86 CPUs")
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_packed_layer_takes_it_in_float32_alone(bias):
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=bias)
    x, packed = torch.randn(2, 64, 32, 36), PackedConv2d(layer)
    torch.testing.assert_close(packed(x), layer(x), atol=2e-5, rtol=0)
    torch.testing.assert_close(packed.plus(x, x), layer(x) + x, atol=2e-5, rtol=0)
    assert packed._winograd is not None
    with torch.autocast("cpu", torch.bfloat16):  # whose products would be in bfloat16
        torch.testing.assert_close(packed(x), layer.double()(x.double()).float(), atol=2e-5, rtol=0)
    layer.float()
    small = PackedConv2d(layer)
    small(x[..., :8, :8])
    strided = PackedConv2d(nn.Conv2d(64, 64, 3, padding=1, stride=2))
    strided(x)
    assert small._winograd is None and strided._winograd is None
    if can_pack(torch.device("cpu"), torch.bfloat16):
        narrow = PackedConv2d(layer.to(torch.bfloat16))
        narrow(x.bfloat16())
        assert narrow._winograd is None
