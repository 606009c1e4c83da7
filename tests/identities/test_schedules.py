"""Schedules: strictly falling, exactly invertible, with the slope they state, and the published tables."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ldm.process.schedule import Cosine, LinearBeta, LinearLogSNR, ScaledLinearBeta, Sigmoid, Tabulated
from ldm.process.zero_terminal import ZeroTerminal, zero_terminal

FINITE = [
    LinearBeta(),
    LinearBeta(steps=1),
    ScaledLinearBeta(),
    ScaledLinearBeta(steps=7),
    Tabulated(betas=(0.5, 0.1, 0.9)),
    Cosine(),
    Cosine(shift=0.25, logsnr_min=-10.0, logsnr_max=12.0),
    Sigmoid(),
    Sigmoid(start=0.0, end=5.0),
    Sigmoid(start=-10.0, end=10.0),
    Sigmoid(start=-50.0, end=0.0),
    Sigmoid(start=-50.0, end=50.0),
    LinearLogSNR(logsnr_min=-5.0, logsnr_max=13.3),
]
ALL = [*FINITE, zero_terminal(ScaledLinearBeta()), zero_terminal(Cosine()), zero_terminal(Tabulated(betas=(0.5, 0.1)))]


def name(schedule):
    return f"{schedule.kind}-{schedule.steps}"


def times(n=1001):
    return torch.linspace(0, 1, n, dtype=torch.float64)


def nodes(schedule):
    """t of every timestep."""
    return torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_level_falls_strictly_and_is_finite_but_for_zero_terminal(schedule):
    levels = schedule(times())
    assert (levels.diff() < 0).all()
    assert levels[:-1].isfinite().all()
    assert levels[-1].isfinite() == (not isinstance(schedule, ZeroTerminal))


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_inverse_undoes_the_schedule(schedule):
    t = times()
    assert torch.allclose(schedule.inverse(schedule(t)), t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_slope_is_the_derivative(schedule):
    t = (torch.rand(200, dtype=torch.float64) * 0.998 + 0.001).requires_grad_()
    (slope,) = torch.autograd.grad(schedule(t).sum(), t)
    assert torch.allclose(schedule.slope(t.detach()), slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_timesteps_are_integers_at_the_nodes_and_rise_with_noise(schedule):
    expected = torch.arange(schedule.steps, dtype=torch.float64)
    assert torch.allclose(schedule.timesteps(schedule(nodes(schedule))), expected, rtol=0, atol=1e-9)


class Copies(TorchDispatchMode):
    """Counts tensors that are made from numbers of Python."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("schedule", [ScaledLinearBeta(), zero_terminal(ScaledLinearBeta())], ids=name)
def test_a_table_is_copied_to_the_device_once_and_serves_training_too(schedule):
    t = torch.tensor([0.25, 0.5, 0.75])
    with torch.inference_mode():
        schedule.timesteps(schedule(t))
    with Copies() as copies:
        schedule.timesteps(schedule(t))
    assert copies.made == 0
    t.requires_grad_()
    schedule(t).sum().backward()
    assert torch.allclose(t.grad, schedule.slope(t.detach()), rtol=1e-4)


@pytest.mark.parametrize("schedule", FINITE, ids=name)
def test_float32_agrees_with_float64_to_1e_4_nats(schedule):
    t = times().float()
    single, double = schedule(t), schedule(t.double())
    assert single.dtype == torch.float32
    assert (single.double() - double).abs().max() < 1e-4


@pytest.mark.parametrize("schedule", [Cosine(), Cosine(shift=0.5), Sigmoid(), LinearLogSNR()], ids=name)
def test_closed_forms_reach_their_stated_ends(schedule):
    ends = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([schedule.logsnr_max, schedule.logsnr_min], abs=1e-12)


def test_stable_diffusion_table():
    schedule = ScaledLinearBeta()
    alpha_bar = schedule(nodes(schedule)).sigmoid()
    assert alpha_bar[0].item() == pytest.approx(0.99915, abs=1e-12)
    assert alpha_bar[499].item() == pytest.approx(0.277670, abs=5e-7)
    assert alpha_bar[999].item() == pytest.approx(0.0046601, abs=5e-8)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert torch.allclose(alpha_bar, (1 - betas).cumprod(0), rtol=1e-12, atol=1e-14)


def test_ddpm_table():
    schedule = LinearBeta()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    sigma_ve = torch.exp(-schedule(nodes(schedule)) / 2)
    assert torch.allclose(schedule(nodes(schedule)).sigmoid(), (1 - betas).cumprod(0), rtol=1e-12, atol=1e-14)
    assert sigma_ve[-1].item() == pytest.approx(157.41, abs=5e-3)


def test_stable_diffusion_timesteps_are_exact_at_every_node_and_survive_float32():
    schedule = ScaledLinearBeta()
    expected = torch.arange(1000, dtype=torch.float64)
    levels = torch.tensor(schedule.nodes()[1:], dtype=torch.float64)
    assert torch.equal(schedule.timesteps(levels), expected)
    assert torch.equal(schedule.timesteps(schedule(nodes(schedule))), expected)
    assert (schedule.timesteps(levels.float()) - expected).abs().max() < 1e-4


def test_before_the_first_node_the_noise_to_signal_ratio_halves():
    schedule = LinearBeta(steps=10)
    ends = schedule(torch.tensor([0.0, 0.1], dtype=torch.float64))
    assert (ends[0] - ends[1]).item() == pytest.approx(math.log(2), abs=1e-12)


def test_cosine_is_the_squared_cosine_of_a_straight_angle():
    t = times()
    alpha_bar = Cosine(logsnr_min=-80.0, logsnr_max=80.0)(t).sigmoid()
    assert torch.allclose(alpha_bar, torch.cos(math.pi / 2 * t) ** 2, rtol=0, atol=1e-12)


def test_shift_moves_every_level_by_twice_its_log():
    plain, shifted = (
        Cosine(logsnr_min=-80.0, logsnr_max=80.0),
        Cosine(shift=0.25, logsnr_min=-80.0, logsnr_max=80.0),
    )
    t = times()[1:-1]
    assert torch.allclose(shifted(t) - plain(t), torch.full_like(t, 2 * math.log(0.25)), rtol=0, atol=1e-9)


def test_sigmoid_is_the_published_formula():
    t = times()[1:-1]
    s = torch.sigmoid
    z, end, start = 6 * t - 3, torch.tensor(3.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    expected = (s(end) - s(z)) / (s(end) - s(start))
    assert torch.allclose(Sigmoid(logsnr_min=-80.0, logsnr_max=80.0)(t).sigmoid(), expected, rtol=1e-10, atol=1e-14)


def test_zero_terminal_is_the_published_rescaling():
    schedule = zero_terminal(ScaledLinearBeta())
    root = ScaledLinearBeta()(nodes(schedule)).sigmoid().sqrt()
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    levels = schedule(nodes(schedule))
    assert torch.allclose(levels.sigmoid(), expected**2, rtol=1e-11, atol=0)
    assert levels[-1] == -math.inf
    assert schedule.timesteps(levels)[-1].item() == pytest.approx(999, abs=1e-10)


@given(st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=30))
def test_any_table_of_betas_is_kept(betas):
    schedule = Tabulated(betas=tuple(betas))
    assert schedule.steps == len(betas)
    alpha_bar = (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
    assert torch.allclose(schedule(nodes(schedule)).sigmoid(), alpha_bar, rtol=1e-9, atol=0)
    assert torch.allclose(schedule.inverse(schedule(times(101))), times(101), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearBeta(steps=0), "steps: 0"),
        (lambda: LinearBeta(beta_last=1.0), r"betas\[1\]: 1.0"),
        (lambda: ScaledLinearBeta(beta_first=0.0), r"betas\[0\]: 0.0"),
        (lambda: Tabulated(betas=()), "empty"),
        (lambda: Tabulated(betas=(0.1, float("nan"))), r"betas\[1\]: nan"),
        (lambda: Cosine(logsnr_min=3.0, logsnr_max=3.0), "must rise"),
        (lambda: Cosine(shift=-1.0), "shift: -1.0"),
        (lambda: Sigmoid(start=2.0, end=1.0), "start, end"),
        (lambda: zero_terminal(LinearBeta(steps=1)), "base.steps: 1"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_levels_stay_on_the_device_of_the_times(schedule):
    with FakeTensorMode():  # stands for a machine with a GPU, and refuses mixed devices
        t = torch.rand(4, device="cuda")
        level = schedule(t)
        for values in (level, schedule.inverse(level), schedule.timesteps(level), schedule.slope(t)):
            assert values.device.type == "cuda" and values.dtype == torch.float32
