"""Churn: noise that is added before a step belongs to the level that it says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.rng import NoiseStream
from ldm.samplers.churn import churned

INF = math.inf
VAR = 4.0  # of the data
COUNT = 100_000


def spread(logsnr: float) -> float:
    """The variance of noisy data at a level."""
    alpha_bar = 1 / (1 + math.exp(-logsnr))
    return alpha_bar * VAR + 1 - alpha_bar


@given(st.floats(-8, 8), st.floats(0.1, 80), st.integers(1, 100))
def test_sigma_grows_as_the_paper_says(logsnr, churn, steps):
    _, level = churned(torch.zeros(1, 2).double(), logsnr, steps, NoiseStream([0]), churn=churn, lo=-INF, hi=INF)
    growth = min(churn / steps, math.sqrt(2) - 1)
    assert math.exp(-level / 2) == pytest.approx(math.exp(-logsnr / 2) * (1 + growth), rel=1e-12)


@pytest.mark.parametrize("logsnr", [-6.0, -1.0, 0.0, 2.5, 7.0])
@pytest.mark.parametrize("churn", [1.0, 3.0, 80.0])
def test_noisy_data_stay_noisy_data(logsnr, churn):
    noise = NoiseStream([1])
    x = math.sqrt(spread(logsnr)) * noise.normal((1, 1, COUNT))[0].double()
    y, level = churned(x, logsnr, 10, noise, churn=churn, lo=-INF, hi=INF)
    assert y.var().item() == pytest.approx(spread(level), rel=5 * math.sqrt(2 / COUNT))
    shared = math.sqrt((1 + math.exp(-logsnr)) / (1 + math.exp(-level)))  # of the signal that both have
    assert ((x * y).mean() / x.var()).item() == pytest.approx(shared, abs=0.02)


@pytest.mark.parametrize("logsnr", [-3.0, -2.0, 1.0, 4.0, -INF])
def test_there_is_none_outside_of_its_bounds(logsnr):
    x = torch.ones(1, 2).double()
    y, level = churned(x, logsnr, 10, NoiseStream([0]), churn=5.0, lo=-2.0, hi=1.0)
    assert (level == logsnr and torch.equal(x, y)) == (logsnr not in (-2.0, 1.0))
