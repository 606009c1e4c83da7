"""The learned schedule, on a world solved exactly: what it may not change, what it must, and that it is a schedule."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.config_io import from_dict, to_dict
from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.losses import vlb_loss
from ldm.nets.gamma import GammaNet, GammaSpec
from ldm.process.exact import GaussianMixture
from ldm.process.piecewise import PiecewiseLogSNR, freeze
from ldm.process.schedule import Cosine, LinearLogSNR, Schedule
from ldm.training.learn_schedule import (
    LearnSpec,
    Pool,
    bound_at_ends,
    learn_interior,
    learn_schedule,
    log_second_moment,
    measure_at,
    single_level_draws,
    variance,
    variance_ratio,
)

ENDS = {"logsnr_min": -8.0, "logsnr_max": 9.0}
VAR = 0.05  # narrow data: the bound's integrand is far from flat between the ends


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


WORLD = GaussianMixture(w=doubles(0.5, 0.5), mu=doubles([-1.0, 0.5], [1.0, -0.5]), var=doubles(VAR, VAR))


def best(x_t, logsnr):
    return Denoised(x0=WORLD.denoise(x_t, logsnr))


def useless(x_t, logsnr):
    return Denoised(x0=torch.full_like(x_t, 1e6))


def drawn(n, seed=0):
    noise = NoiseStream([seed])
    return WORLD.sample(noise.uniform((1, n))[0].double(), noise.normal((1, n, 2))[0].double())


def bent(seed, width=12, **ends):
    """A GammaNet with arbitrary weights, so that it has steep and flat places."""
    gamma = GammaNet(GammaSpec(width=width, **(ENDS | ends)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in gamma.interior():
            weights.copy_(3 * torch.randn(weights.shape, generator=generator))
    return gamma


@given(st.integers(0, 10**6))
def test_it_falls_strictly_whatever_its_weights(seed):
    gamma = bent(seed)
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    level, slope = gamma(t), gamma.slope(t)
    assert isinstance(gamma, Schedule)
    assert (level.diff() < 0).all() and (slope < 0).all()
    assert [level[0].item(), level[-1].item()] == pytest.approx([9.0, -8.0], abs=1e-12)


@given(st.integers(0, 10**6))
def test_inverse_and_slope_are_those_of_the_schedule(seed):
    gamma = bent(seed)
    t = torch.linspace(0.001, 0.999, 97, dtype=torch.float64)
    assert torch.allclose(gamma.inverse(gamma(t)), t, atol=1e-9)
    level = torch.linspace(-7.9, 8.9, 97, dtype=torch.float64)
    assert torch.allclose(gamma(gamma.inverse(level)), level, atol=1e-9)
    leaf = t.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(gamma(leaf).sum(), leaf)
    assert torch.allclose(gamma.slope(t), slope, rtol=1e-9, atol=1e-14)
    assert torch.allclose(gamma.timesteps(gamma(t)), 1000 * t - 1, atol=1e-6)


def test_the_inverse_has_the_gradient_of_the_inverse_in_level_and_weights():
    """Against the implicit function theorem: dt = -(d logsnr / d weight) / slope."""
    gamma = bent(3).double()
    level = doubles(2.0).requires_grad_(True)
    t = gamma.inverse(level)
    by_level, by_line = torch.autograd.grad(t.sum(), [level, gamma.line])
    held = t.detach()
    (of_level,) = torch.autograd.grad(gamma(held).sum(), [gamma.line])
    assert by_level.item() == pytest.approx(1 / gamma.slope(held).item(), rel=1e-9)
    assert by_line.item() == pytest.approx(-of_level.item() / gamma.slope(held).item(), rel=1e-8)


def test_it_starts_as_a_straight_line():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    gamma = GammaNet(GammaSpec(**ENDS))
    assert torch.allclose(gamma.shape(t), t, atol=0.01)


@given(st.integers(0, 10**6))
def test_frozen_it_is_the_same_schedule_without_weights(seed):
    gamma = bent(seed)
    frozen = freeze(gamma, cells=64)
    nodes = torch.arange(65).double() / 64
    assert isinstance(frozen, Schedule) and frozen.steps == gamma.steps
    assert torch.allclose(frozen(nodes), gamma(nodes), atol=1e-12)
    assert torch.allclose(frozen.inverse(frozen(nodes)), nodes, atol=1e-12)
    assert torch.allclose(frozen.timesteps(frozen(nodes)), 1000 * nodes - 1, atol=1e-9)
    assert from_dict(PiecewiseLogSNR, json.loads(json.dumps(to_dict(frozen)))) == frozen


def test_a_schedule_that_lost_its_monotonicity_is_refused_in_one_line():
    crossed = bent(0)
    with torch.no_grad():
        crossed.logsnr_max.fill_(-9.0)
    for make in (lambda: freeze(crossed), lambda: PiecewiseLogSNR(levels=(3.0, 1.0, 1.0, -2.0))):
        with pytest.raises(ValueError, match=r"levels\[.*do not fall") as refused:
            make()
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="nan"):
        PiecewiseLogSNR(levels=(3.0, math.nan, -2.0))
    with pytest.raises(ValueError, match="ends crossed"):  # to a useless denoiser the shortest schedule is the best
        spec = LearnSpec(steps=3, end_rate=50.0, ends=True)
        learn_schedule(bent(0), lambda step: (useless, drawn(8, step)), NoiseStream([0]), spec)


def expected_bound(schedule, levels=801):
    """The continuous bound's denoising terms, averaged over 16 fixed latents and noises, by quadrature over t."""
    x0, eps = drawn(16), NoiseStream([5]).normal((1, 16, 2))[0].double()
    u = torch.linspace(0, 1, levels, dtype=torch.float64)[1:-1]
    t = u**3 * (10 - 15 * u + 6 * u**2)  # dense at both ends
    total = 0.0
    for part in torch.stack([t, 30 * (u * (1 - u)) ** 2]).split(200, dim=1):
        time, jacobian = part
        rows = x0.repeat(len(time), 1), eps.repeat(len(time), 1), time.repeat_interleave(16)
        terms = vlb_loss(best, *rows, schedule)
        total += (terms.denoise.unflatten(0, (-1, 16)).mean(1) * jacobian).sum().item()
    return total / (levels - 1)


def test_the_continuous_bound_does_not_move_with_the_interior():
    straight = expected_bound(LinearLogSNR(**ENDS))
    for schedule in (Cosine(**ENDS), GammaNet(GammaSpec(**ENDS)), bent(11, width=3)):
        assert expected_bound(schedule) == pytest.approx(straight, rel=2e-4)
    assert abs(expected_bound(LinearLogSNR(logsnr_min=-8.0, logsnr_max=6.0)) / straight - 1) > 0.1  # but with an end


def second_moments(levels, n=256):
    """h(logsnr) = E[(1/2 SNR |x_0 - x0_hat|^2)^2] on an even grid between the ends, and the grid's spacing."""
    x0, eps = drawn(n, seed=9), NoiseStream([10]).normal((1, n, 2))[0].double()
    grid = torch.linspace(ENDS["logsnr_min"], ENDS["logsnr_max"], levels, dtype=torch.float64)
    return grid, torch.stack([measured(x0, eps, level) for level in grid])


def measured(x0, eps, level):
    levels = level.expand(len(x0))
    schedule = LinearLogSNR(**ENDS)
    pool = measure_at(best, x0, eps, schedule.inverse(levels), schedule)
    return ((0.5 * level.exp() * pool.error) ** 2).mean()


def test_training_reaches_the_least_second_moment_that_any_schedule_has():
    """By Cauchy and Schwarz int h |slope| is at least (int sqrt(h))^2, reached at a slope proportional to h^-1/2."""
    grid, h = second_moments(levels=201)
    least = torch.trapezoid(h.sqrt(), grid).item() ** 2
    pool = Pool(grid, torch.full_like(grid, 1 / 17), 2 * (-grid).exp() * h.sqrt())
    gamma = GammaNet(GammaSpec(width=24, **ENDS))
    start = log_second_moment(gamma, pool).exp().item()
    learn_interior(gamma, pool, LearnSpec(steps=200))
    reached = log_second_moment(gamma, pool).exp().item()
    assert start > 1.5 * least
    assert least * 0.99 < reached < least * 1.03


def test_the_measured_variance_of_the_bound_falls_by_training():
    """Between ends so far apart that a straight line wastes a third of its levels on pure noise."""
    ends = {"logsnr_min": -16.0, "logsnr_max": 9.0}
    gamma = GammaNet(GammaSpec(width=24, **ends))
    learn_schedule(gamma, lambda step: (best, drawn(128, step)), NoiseStream([1]), LearnSpec(steps=120, rate=0.1))
    x0 = drawn(400, seed=77)

    def draws(schedule):
        return single_level_draws(best, x0, schedule, NoiseStream(range(400)), 16)

    learned, straight = draws(freeze(gamma)), draws(LinearLogSNR(**ends))
    for other in (straight, draws(Cosine(**ends))):
        ratio, error = variance_ratio(other, learned)
        assert ratio > 1.3 and ratio - 3 * error > 1
    assert abs(learned.mean() - straight.mean()) < 4 * straight.std() / straight.numel() ** 0.5


def test_the_ends_move_to_the_lower_bound_with_the_exact_gradient():
    """d/d logsnr_max of the denoising terms is their density there; -d/2 that of the reconstruction."""
    gamma, x0 = GammaNet(GammaSpec(**ENDS)).double(), drawn(16)
    eps = NoiseStream([5]).normal((1, 16, 2))[0].double()
    pool = measure_at(best, x0, eps, torch.rand(16, dtype=torch.float64), gamma)
    terms = bound_at_ends(gamma, best, x0, eps, pool)
    (by_max, by_min) = torch.autograd.grad(terms.denoise.mean(), gamma.ends(), retain_graph=True)
    step = 1e-2
    for found, end, sign in ((by_max, "logsnr_max", 1), (by_min, "logsnr_min", 1)):
        lower, upper = (LinearLogSNR(**(ENDS | {end: ENDS[end] + sign * h})) for h in (-step, step))
        numeric = (expected_bound(upper, 801) - expected_bound(lower, 801)) / (2 * step)
        assert found.item() == pytest.approx(numeric, rel=1e-3)
    (recon,) = torch.autograd.grad(terms.recon.mean(), gamma.ends()[:1])
    assert recon.item() == pytest.approx(-1.0, rel=1e-9)


def test_learned_ends_lower_the_bound():
    gamma = GammaNet(GammaSpec(width=8, logsnr_min=-2.0, logsnr_max=3.0))
    spec = LearnSpec(steps=60, end_rate=0.1, ends=True)
    learn_schedule(gamma, lambda step: (best, drawn(64, step)), NoiseStream([1]), spec)
    assert gamma.logsnr_max.item() > 6 and gamma.logsnr_min.item() < -3
    x0, eps = drawn(2000, seed=8), NoiseStream([3]).normal((1, 2000, 2))[0].double()
    t = (torch.arange(2000).double() + 0.5) / 2000
    entropy = -WORLD.log_prob(x0, torch.full((2000,), math.inf, dtype=torch.float64)).mean().item()
    before, after = (
        vlb_loss(best, x0, eps, t[torch.randperm(2000)], schedule).total.mean().item()
        for schedule in (LinearLogSNR(logsnr_min=-2.0, logsnr_max=3.0), freeze(gamma))
    )
    assert before - entropy > 0.15
    assert abs(after - entropy) < 0.06


def test_the_standard_error_is_that_of_the_variance():
    """For normal draws the variance of the sample variance is 2 var^2 / (n - 1)."""
    draws = torch.randn(1000, 1, dtype=torch.float64)
    value, error = variance(draws)
    assert value == pytest.approx(draws.var().item(), rel=1e-12)
    assert error == pytest.approx(math.sqrt(2 / 999) * value, rel=0.2)
    assert variance_ratio(3 * draws, draws) == pytest.approx((9.0, 0.0), abs=1e-9)
