import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ldm.core.config_io import from_dict, to_dict
from ldm.nets.cond import Cond
from ldm.nets.unet import UNet, UNetSpec

SPEC = UNetSpec(
    in_channels=4,
    out_channels=6,
    channels=16,
    mult=(1, 2),
    blocks=(1, 2),
    attention_levels=(1,),
    heads=2,
    context_dim=12,
    pooled_dim=10,
    cond_channels=3,
    norm_groups=4,
)
SD1 = UNetSpec()
SD2 = UNetSpec(heads=None, head_channels=64, context_dim=1024, linear_projection=True)


def net_of(spec: UNetSpec = SPEC) -> UNet:
    """A network whose every weight matters: a new one returns 0, whatever its input."""
    torch.manual_seed(0)
    net = UNet(spec).eval()
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def inputs(b: int = 2, h: int = 4, w: int = 4) -> tuple[torch.Tensor, torch.Tensor, Cond]:
    generator = torch.Generator().manual_seed(1)
    x, tokens, pooled, channels = (
        torch.randn(shape, generator=generator) for shape in ((b, 4, h, w), (b, 5, 12), (b, 10), (b, 3, h, w))
    )
    mask = torch.arange(5)[None, :] < torch.arange(2, 2 + b)[:, None].clamp(max=5)
    return x, torch.linspace(0, 999, b), Cond(tokens, mask, pooled, channels)


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (SD1, 859_520_964),
        (replace(SD1, in_channels=9), 859_535_364),
        (replace(SD1, cond_channels=5), 859_535_364),
        (SD2, 865_910_724),
    ],
)
def test_stable_diffusion_by_configuration_alone(spec, parameters):
    with torch.device("meta"):
        net = UNet(spec)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == 686


def test_a_new_network_returns_zero():
    x, c_noise, cond = inputs()
    assert torch.equal(UNet(SPEC)(x, c_noise, cond), torch.zeros(2, 6, 4, 4))


@torch.no_grad()
def test_masked_tokens_change_nothing():
    net, (x, c_noise, cond) = net_of(), inputs()
    out = net(x, c_noise, cond)
    for garbage in (0.0, 1e4, math.nan):
        other = replace(cond, tokens=cond.tokens.masked_fill(~cond.mask[:, :, None], garbage))
        assert torch.equal(net(x, c_noise, other), out)
    cut = replace(cond, tokens=cond.tokens[:, :3], mask=cond.mask[:, :3])  # all that is left of row 0 and 1
    torch.testing.assert_close(net(x, c_noise, cut), out)


@torch.no_grad()
def test_a_row_without_words_is_finite_and_leaves_the_others_alone():
    net, (x, c_noise, cond) = net_of(), inputs()
    mask = cond.mask.clone()
    mask[0] = False
    out = net(x, c_noise, replace(cond, mask=mask))
    assert out.isfinite().all()
    torch.testing.assert_close(out[1], net(x, c_noise, cond)[1])
    single = replace(cond, tokens=torch.zeros(2, 1, 12), mask=None)  # attention to zeros adds nothing either
    torch.testing.assert_close(out[0], net(x, c_noise, single)[0])


@torch.no_grad()
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("part", ["x", "c_noise", "tokens", "mask", "pooled", "channels"])
def test_every_input_reaches_the_output_of_its_own_image_only(part, scale_shift):
    net = net_of(replace(SPEC, scale_shift=scale_shift))
    x, c_noise, cond = inputs()
    out = net(x, c_noise, cond)
    values = {"x": x, "c_noise": c_noise} | {
        name: getattr(cond, name) for name in ("tokens", "mask", "pooled", "channels")
    }
    changed = values[part].clone()
    changed[1] = ~changed[1] if changed.dtype == torch.bool else changed[1] + 1
    values[part] = changed
    x, c_noise = values.pop("x"), values.pop("c_noise")
    other = net(x, c_noise, Cond(**values))
    torch.testing.assert_close(other[0], out[0])
    assert (other[1] - out[1]).abs().max() > 1e-3


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 11), st.integers(1, 11))
def test_any_resolution_that_halves_evenly(h, w):
    x, c_noise, cond = inputs(h=h, w=w)
    if h % 2 == 0 and w % 2 == 0:
        assert UNet(SPEC)(x, c_noise, cond).shape == (2, 6, h, w)
    else:
        with pytest.raises(ValueError, match=f"x is {h}x{w}; height and width must be multiples of 2"):
            UNet(SPEC)(x, c_noise, cond)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooled": None}, "cond.pooled is absent; unet.pooled_dim is 10"),
        ({"pooled": torch.zeros(2, 9)}, "cond.pooled is 9 wide; unet.pooled_dim is 10"),
        ({"channels": None}, "cond.channels has 0 channels; unet.cond_channels is 3"),
        ({"channels": torch.zeros(2, 3, 8, 8)}, "cond.channels is 8x8, x is 4x4"),
        ({"tokens": torch.zeros(2, 5, 11)}, "cond.tokens is 11 wide; unet.context_dim is 12"),
    ],
)
def test_conditions_that_do_not_fit_are_named(changes, message):
    x, c_noise, cond = inputs()
    with pytest.raises(ValueError, match=message):
        UNet(SPEC)(x, c_noise, replace(cond, **changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"channels": 0}, "channels"),
        ({"channels": 15, "norm_groups": 5}, "channels"),
        ({"mult": ()}, "mult"),
        ({"mult": (1, 0)}, "mult"),
        ({"blocks": (1, 1, 1)}, "blocks"),
        ({"blocks": 0}, "blocks"),
        ({"depth": (1,)}, "depth"),
        ({"attention_levels": (2,)}, "attention_levels"),
        ({"heads": None}, "heads"),
        ({"head_channels": 8}, "heads"),
        ({"heads": 3}, "heads"),
        ({"heads": 0}, "heads"),
        ({"norm_groups": 3}, "norm_groups"),
        ({"dropout": 1.0}, "dropout"),
        ({"context_dim": -1}, "context_dim"),
    ],
)
def test_specs_that_cannot_be_built_are_refused(changes, field):
    with pytest.raises(ValueError, match=rf"unet\.{field}"):
        replace(SPEC, **changes)


def test_checkpointing_gives_equal_gradients():
    x, c_noise, cond = inputs()
    gradients = []
    for recompute in (False, True):
        net = net_of(replace(SPEC, checkpoint=recompute, dropout=0.3)).train()
        torch.manual_seed(2)
        net(x, c_noise, cond).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None and plain.any()
        assert torch.equal(plain, recomputed)


@torch.no_grad()
def test_bfloat16_autocast_stays_close():
    net, (x, c_noise, cond) = net_of(), inputs()
    out = net(x, c_noise, cond)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, c_noise, cond)
    assert low.dtype == torch.bfloat16
    assert (low - out).std() < 0.02 * out.std()


class Copies(TorchDispatchMode):
    """Count the operations that move data without computing."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("clone", "copy_", "_to_copy", "contiguous")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("linear", [False, True])
def test_channels_last_needs_no_copies(linear):
    net = net_of(replace(SPEC, linear_projection=linear)).to(memory_format=torch.channels_last)
    x, c_noise, cond = inputs()
    expected = net(x, c_noise, cond)
    x = x.contiguous(memory_format=torch.channels_last)
    cond = replace(cond, channels=cond.channels.contiguous(memory_format=torch.channels_last))
    with Copies() as copies:
        out = net(x, c_noise, cond)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert copies.count == 0
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("recompute", [False, True])
def test_compiles_to_one_graph(recompute, without_shape_checks):
    net, (x, c_noise, cond) = net_of(replace(SPEC, checkpoint=recompute)), inputs()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, c_noise, cond), net(x, c_noise, cond))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as it draws
        torch.testing.assert_close(compiled(x, c_noise, cond), net(x, c_noise, cond), atol=0.05, rtol=0.05)


def test_trains_on_the_meta_device():
    with torch.device("meta"):
        net = UNet(SPEC)
    x, c_noise, cond = inputs()
    out = net(x.to("meta"), c_noise.to("meta"), cond.map(lambda t: t.to("meta")))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.is_meta for p in net.parameters())


@torch.no_grad()
@pytest.mark.parametrize("scale_shift", [False, True])
def test_everything_follows_the_weights_to_another_device(scale_shift):  # fake tensors refuse to mix devices
    with FakeTensorMode():
        with torch.device("cuda"):
            net = UNet(replace(SPEC, scale_shift=scale_shift))
        x, c_noise, cond = inputs()
        out = net(x.to("cuda"), c_noise.to("cuda"), cond.map(lambda t: t.to("cuda")))
    assert out.device.type == "cuda"


@pytest.mark.parametrize("spec", [SPEC, SD1, SD2])
def test_spec_survives_the_configuration_file(spec):
    assert from_dict(UNetSpec, json.loads(json.dumps(to_dict(spec)))) == spec
