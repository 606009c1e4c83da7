"""Training times: in range, uniform or log-normal as stated, reproducible, and less noisy where promised."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.rng import NoiseStream
from ldm.process.schedule import Cosine, LinearLogSNR, ScaledLinearBeta
from ldm.process.times import LogNormal, LowDiscrepancy, Uniform, spread

ALL = [Uniform(), LowDiscrepancy(), LogNormal()]
SCHEDULE = ScaledLinearBeta()


def kind_of(spec):
    return spec.kind


@pytest.mark.parametrize("times", ALL, ids=kind_of)
@pytest.mark.parametrize("n", [1, 2, 257])
def test_times_are_in_range_and_repeat_with_the_seed(times, n):
    t = times.draw(n, NoiseStream([5]), SCHEDULE)
    assert t.shape == (n,) and t.dtype == torch.float32 and (t >= 0).all() and (t <= 1).all()
    assert torch.equal(t, times.draw(n, NoiseStream([5]), SCHEDULE))
    assert not torch.equal(t, times.draw(n, NoiseStream([6]), SCHEDULE))


@given(st.integers(1, 300), st.integers(0, 1000))
def test_low_discrepancy_puts_one_time_in_every_cell(n, seed):
    t = LowDiscrepancy().draw(n, NoiseStream([seed]), SCHEDULE).double()
    gaps = t.sort().values.diff()
    assert torch.allclose(gaps, torch.full_like(gaps, 1 / n), atol=1e-6)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 20))
def test_low_discrepancy_is_unbiased_exactly(n, m, k):
    """Over m even values of u a batch of n sees n m even times: there waves of another period have their true mean."""
    means = []
    for j in range(m):
        t = spread(torch.tensor([(j + 0.5) / (n * m)], dtype=torch.float64), n)
        means.append((1 + torch.cos(2 * math.pi * k * t)).mean())
    if k == 0 or k % (n * m):
        assert torch.stack(means).mean().item() == pytest.approx(2.0 if k == 0 else 1.0, abs=1e-12)


def test_low_discrepancy_keeps_the_mean_of_any_integrand_and_cuts_its_variance():
    def batch_means(times):
        noise = NoiseStream([1])
        return torch.stack([(times.draw(16, noise, SCHEDULE) ** 2).mean() for _ in range(4000)]).double()

    plain, spread = batch_means(Uniform()), batch_means(LowDiscrepancy())
    error = math.sqrt(float(plain.var()) / len(plain))
    assert plain.mean().item() == pytest.approx(1 / 3, abs=5 * error)
    assert spread.mean().item() == pytest.approx(1 / 3, abs=5 * error)
    assert spread.var() < plain.var() / 15


@pytest.mark.parametrize(
    "schedule", [LinearLogSNR(logsnr_min=-40.0, logsnr_max=40.0), Cosine(logsnr_min=-30.0, logsnr_max=30.0)]
)
def test_log_normal_levels_have_the_stated_moments_where_the_schedule_is_wide(schedule):
    t = LogNormal(mean=0.3, std=1.1).draw(20_000, NoiseStream([2]), schedule)
    log_sigma = -schedule(t.double()) / 2
    assert log_sigma.mean().item() == pytest.approx(0.3, abs=0.04)
    assert log_sigma.std().item() == pytest.approx(1.1, abs=0.03)


def test_log_normal_is_restricted_to_the_schedule_not_piled_up_at_its_ends():
    schedule = LinearLogSNR(logsnr_min=-2.0, logsnr_max=2.0)
    t = LogNormal(mean=1.0, std=1.0).draw(50_000, NoiseStream([3]), schedule).double()
    assert ((t == 0) | (t == 1)).double().mean() < 1e-3
    # log sigma is N(1, 1) restricted to [-1, 1]: mean 1 + (pdf(-2) - pdf(0)) / (cdf(0) - cdf(-2))
    pdf = [math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (-2.0, 0.0)]
    cdf = [0.5 * math.erfc(-z / math.sqrt(2)) for z in (-2.0, 0.0)]
    expected = 1 + (pdf[0] - pdf[1]) / (cdf[1] - cdf[0])
    assert (-schedule(t) / 2).mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("mean", [-60.0, 9.0, 60.0])
def test_log_normal_beyond_the_schedule_is_refused(mean):
    with pytest.raises(ValueError, match="no level within"):
        LogNormal(mean=mean, std=0.5).draw(4, NoiseStream([0]), SCHEDULE)


def test_bad_spread_is_refused():
    with pytest.raises(ValueError, match=r"std: 0\.0"):
        LogNormal(std=0.0)
