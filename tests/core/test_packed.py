"""A packed network is the plain one, in every precision that it can be asked to compute in."""

import copy

import pytest
import torch
from torch import nn

from ldm.core.packed import PackedConv2d, PackedLinear, PackedPointwise, can_pack, pack, packing_pays, plus
from ldm.core.processor import Processor
from ldm.nets.cond import Cond
from ldm.nets.unet import UNet, UNetSpec

CPU = torch.device("cpu")
needs_x86 = pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="packing is for x86 CPUs")


def close(ours, theirs):
    """Equal up to the order of sums: bfloat16 keeps 8 bits."""
    rounding = 2**-7 if theirs.dtype == torch.bfloat16 else 1e-5
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= rounding * theirs.abs().max()


def dtypes():
    return [t for t in (torch.float32, torch.bfloat16) if can_pack(CPU, t)] or [torch.float32]


@pytest.mark.parametrize(
    ("x86", "onednn", "onednn_bf16", "avx512_bf16", "pays"),
    [
        (True, True, True, True, True),  # Zen 4
        (True, True, True, False, False),  # Emerald Rapids in a virtual machine
        (True, True, False, False, False),  # Zen 3
        (True, True, False, True, False),  # held to AVX2 by ONEDNN_MAX_CPU_ISA
        (True, False, False, True, False),
        (False, True, True, False, False),  # Arm
    ],
)
def test_packing_pays_where_it_was_measured_to_be_faster(x86, onednn, onednn_bf16, avx512_bf16, pays):
    cpu = Processor(x86=x86, onednn=onednn, onednn_bf16=onednn_bf16, avx512_bf16=avx512_bf16)
    assert packing_pays(cpu) == pays


@needs_x86
@pytest.mark.parametrize("dtype", dtypes(), ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Conv2d(6, 8, 3, stride=2, bias=False),
        nn.Conv2d(6, 8, 1),
        nn.Conv2d(6, 8, 1, stride=2),
        nn.Conv2d(6, 8, 1, groups=2, bias=False),
        nn.Linear(5, 8),
    ],
)
@torch.inference_mode()
def test_a_packed_layer_is_the_plain_one(layer, dtype):
    plain = copy.deepcopy(layer).to(dtype)
    (packed,) = pack(nn.Sequential(plain))
    assert isinstance(packed, (PackedLinear, PackedConv2d, PackedPointwise))
    for shape in ((2, 6, 8, 5), (1, 6, 4, 5)):
        x = torch.randn(shape).to(dtype)
        y = plain(x)
        close(packed(x), y)
        close(plus(packed, x, y), y + y)
        close(packed(x.double()), copy.deepcopy(layer).to(dtype).double()(x.double()))  # from unpacked weights


@needs_x86
@pytest.mark.parametrize("linear", [False, True])
@torch.inference_mode()
def test_a_packed_unet_is_the_plain_one(linear):
    spec = UNetSpec(
        channels=32, mult=(1, 2), blocks=1, heads=4, attention_levels=(0,), context_dim=16, linear_projection=linear
    )
    net = UNet(spec).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, steps, cond = torch.randn(2, 4, 8, 6), torch.tensor([3.0, 800.0]), Cond(torch.randn(2, 5, 16))
    plain = net(x, steps, cond)
    close(pack(net)(x, steps, cond), plain)
    assert not any(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules())


@needs_x86
@torch.inference_mode()
def test_layers_that_cannot_be_packed_stay():
    class Adapted(nn.Linear):
        """A layer with something added, as adapters are."""

    net = nn.Sequential(Adapted(4, 4), nn.Conv2d(4, 4, 3, padding="same"), nn.Linear(4, 4).double())
    kept = list(net)
    assert list(pack(net)) == kept
