"""Four convolutions of the small map are the one of the doubled map."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ldm.core.packed import PackedConv2d, can_pack, pack
from ldm.core.upsample import SplitUpsample, Upsample, split

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="packing is for x86 CPUs")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@torch.inference_mode()
def test_packed_it_is_the_same_function(b, c, h, w):
    plain, x = Upsample(c), torch.randn(b, c, h, w)
    expected = plain(x)
    (packed,) = pack(nn.Sequential(plain))
    assert isinstance(packed, SplitUpsample)
    found = packed(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-5)


@pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="bfloat16 is slow here")
@torch.inference_mode()
def test_summed_weights_round_about_as_much_as_the_plain_ones():
    plain, x = Upsample(64), torch.randn(1, 64, 8, 8)
    exact = plain(x)
    packed = pack(nn.Sequential(plain.to(torch.bfloat16)))
    assert (packed(x.bfloat16()) - exact).std() < 2**-7 * exact.std()


def test_without_packing_it_can_be_split_anywhere():
    net = nn.Sequential(nn.Sequential(Upsample(3)), nn.Conv2d(3, 2, 1))
    x = torch.randn(1, 3, 4, 5)
    expected = net(x)
    assert isinstance(split(net)[0][0], SplitUpsample)
    torch.testing.assert_close(net(x), expected)


def test_a_convolution_that_something_was_added_to_keeps_it():
    layer = Upsample(4)
    layer.conv = nn.Sequential(layer.conv, nn.Identity())  # as an adapter puts itself around it
    assert layer.packed() is layer and isinstance(layer.conv[0], PackedConv2d)
