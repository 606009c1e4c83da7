"""The optimiser and the shape of its learning rate."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ldm.core.checkpoints import use_settings
from ldm.core.optim import OptimSpec, adamw, clip, lay_out, scheduled


def test_the_rate_rises_stays_and_falls_to_zero():
    spec = OptimSpec(steps=100, warmup=10, decay=0.2)
    factors = [spec.factor(step) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[9:81] == [1.0] * 72
    assert factors[80:] == pytest.approx([1 - i / 20 for i in range(21)])


@given(st.integers(1, 500), st.integers(0, 600), st.floats(0, 1))
def test_every_step_of_a_run_learns(steps, warmup, decay):
    spec = OptimSpec(steps=steps, warmup=warmup, decay=decay)
    assert all(0 < spec.factor(step) <= 1 for step in range(steps))
    assert spec.factor(steps) == spec.factor(steps + 9) == 0


def test_only_matrices_and_kernels_decay():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 4))
    module[2].weight.requires_grad_(False)
    decayed, plain = adamw(module, OptimSpec(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1 and [p.ndim for p in decayed["params"]] == [4]
    assert plain["weight_decay"] == 0 and len(plain["params"]) == 4


def test_the_schedule_starts_in_the_warm_up():
    spec = OptimSpec(lr=1e-2, warmup=4)
    optimizer = adamw(nn.Linear(1, 1), spec)
    schedule = scheduled(optimizer, spec)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0]) * 1e-2)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("decay", 1.5), ("lr", 0.0)])
def test_impossible_options_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "):
        OptimSpec(**{name: value})


def test_moments_that_lay_in_memory_otherwise_take_the_same_step():
    def conv():
        torch.manual_seed(0)
        net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return net, adamw(net, OptimSpec(lr=0.1))

    def step(net, optimizer):
        optimizer.zero_grad()
        net(torch.arange(75.0).reshape(1, 3, 5, 5).cos()).square().sum().backward()
        optimizer.step()

    (net, optimizer), (other, another) = conv(), conv()
    step(net, optimizer)
    other.load_state_dict(net.state_dict())
    saved = optimizer.state_dict()
    plain = {n: {k: m.clone().contiguous() for k, m in moments.items()} for n, moments in saved["state"].items()}
    another.load_state_dict({**saved, "state": plain})
    assert another.state[other.weight]["exp_avg"].stride() != other.weight.stride()
    lay_out(another)
    step(net, optimizer)
    step(other, another)
    assert torch.equal(net.weight, other.weight)


@pytest.mark.parametrize("scale", [None, 8.0])
def test_longer_gradients_are_shortened_to_the_norm_also_where_float16_has_scaled_them(scale):
    net = nn.Linear(3, 2)
    optimizer = adamw(net, OptimSpec())
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, 10.0)
    clip(SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler)), optimizer, OptimSpec(clip=0.5))
    norm = torch.cat([weight.grad.flatten() for weight in net.parameters()]).norm().item()
    assert norm == pytest.approx(0.5 * (scale or 1.0), rel=1e-5)


def test_a_resumed_optimiser_has_the_settings_of_now():
    """What `adamw` would have been made with, its moments and its step kept."""

    def made(spec):
        torch.manual_seed(0)
        optimizer = adamw(nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2)), spec)
        return optimizer, scheduled(optimizer, spec)["lr_scheduler"]["scheduler"]

    before = OptimSpec(lr=1e-2, weight_decay=0.5, betas=(0.5, 0.6), warmup=0, steps=10)
    now = OptimSpec(lr=2e-2, weight_decay=0.1, betas=(0.9, 0.95), warmup=8, steps=20)
    optimizer, schedule = made(before)
    for _ in range(3):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = torch.ones_like(weight)
        optimizer.step()
        schedule.step()
    checkpoint = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    moments = optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"].clone()
    use_settings(checkpoint, now)
    resumed, its_schedule = made(now)
    resumed.load_state_dict(checkpoint["optimizer_states"][0])
    its_schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    for group, decay in zip(resumed.param_groups, (0.1, 0.0), strict=True):
        assert (group["weight_decay"], tuple(group["betas"]), group["lr"]) == (decay, (0.9, 0.95), 2e-2 * 4 / 8)
    assert torch.equal(resumed.state[resumed.param_groups[0]["params"][0]]["exp_avg"], moments)
