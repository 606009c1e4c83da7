"""The moving average of weights."""

import pytest
import torch
from torch import nn

from ldm.core.ema import Ema


def walk(module: nn.Module, ema: Ema, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in module.parameters():
            p.data.add_(torch.randn(p.shape, generator=generator))
        ema.update()


def test_warm_up_formula():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    ema, expected = Ema(module, 0.3), 0.0
    for k, decay in enumerate([2 / 11, 3 / 12, 0.3, 0.3], start=1):  # (1 + k) / (10 + k) up to the final decay
        module.weight.data.fill_(float(k))
        ema.update()
        expected = decay * expected + (1 - decay) * k
        assert ema.weights()["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_applied_restores_exactly_even_after_an_error():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ema = Ema(module, 0.9)
    walk(module, ema, 5, seed=0)
    live = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(KeyError), ema.applied():
        for name, value in ema.weights().items():
            assert torch.equal(module.state_dict()[name], value)
        assert not torch.equal(module[0].weight, live["0.weight"])
        raise KeyError
    assert all(torch.equal(module.state_dict()[name], value) for name, value in live.items())


def test_state_continues_bit_exactly():
    first = nn.Linear(3, 4)
    ema = Ema(first, 0.999)
    walk(first, ema, 7, seed=0)
    second = nn.Linear(3, 4)
    second.load_state_dict(first.state_dict())
    resumed = Ema(second, 0.999)
    resumed.load_state_dict(ema.state_dict())
    walk(first, ema, 5, seed=1)
    walk(second, resumed, 5, seed=1)
    assert ema.updates == resumed.updates == 12
    assert all(torch.equal(value, resumed.weights()[name]) for name, value in ema.weights().items())


def test_frozen_weights_are_left_alone():
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    ema = Ema(module, 0.5)
    module.bias.data.fill_(3.0)
    ema.update()
    assert (ema.weights()["bias"] == 3).all() and "bias" not in ema.state_dict()["average"]


def test_low_precision_weights_are_averaged_in_float32():
    module = nn.Linear(1, 1, bias=False).bfloat16()
    module.weight.data.fill_(1.0)
    ema = Ema(module, 0.999)
    module.weight.data.fill_(1.0 + 2.0**-7)
    ema.update()
    assert ema.state_dict()["average"]["weight"].item() == pytest.approx(1.0 + 9 / 11 * 2.0**-7, rel=1e-6)
    assert ema.weights()["weight"].dtype == torch.bfloat16


def test_the_average_follows_the_module_to_its_device():
    module = nn.Linear(2, 2)
    ema = Ema(module, 0.9)
    module.to("meta")
    ema.update()
    assert all(value.device.type == "meta" for value in ema.weights().values())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match="outside"):
        Ema(nn.Linear(1, 1), decay)
