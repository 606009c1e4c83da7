"""Latent moments: those of all latents at once, however they are batched."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoencoder.stats import MomentsMeter
from ldm.core.gaussian import Gaussian


def posteriors(images: int, offset: float = 0.0, dtype=torch.float64) -> Gaussian:
    generator = torch.Generator().manual_seed(images)
    mean, log_var = torch.randn(2, images, 3, 2, 4, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.1, 1.0, 20.0], dtype=torch.float64)[:, None, None]
    return Gaussian((scale * mean + offset).to(dtype), log_var.exp().to(dtype))


def measure(g: Gaussian, sizes: list[int]):
    meter = MomentsMeter(g.mean.shape[1])
    for mean, var in zip(g.mean.split(sizes), g.var.split(sizes), strict=True):
        meter.update(Gaussian(mean, var))
    return meter.moments()


@pytest.mark.parametrize("offset", [0.0, 1e6])  # a sum of squares would cancel at the second
def test_moments_are_those_of_all_latents_at_once(offset):
    g = posteriors(6, offset)
    found = measure(Gaussian(g.mean, torch.zeros_like(g.var)), [4, 2])
    std, mean = torch.std_mean(g.mean, dim=(0, 2, 3), correction=0)
    assert found.images == 6
    torch.testing.assert_close(torch.tensor(found.mean, dtype=torch.float64), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.tensor(found.std, dtype=torch.float64), std, rtol=1e-9, atol=0)


def test_the_variance_of_the_posterior_counts():
    g = posteriors(5)
    found = torch.tensor(measure(g, [5]).std, dtype=torch.float64)
    expected = g.mean.var(dim=(0, 2, 3), correction=0) + g.var.mean(dim=(0, 2, 3))  # law of total variance
    torch.testing.assert_close(found**2, expected, rtol=1e-12, atol=0)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_batching_does_not_matter(sizes):
    g = posteriors(sum(sizes), offset=100.0)
    found, whole = measure(g, sizes), measure(g, [sum(sizes)])
    assert found.images == whole.images
    assert found.mean == pytest.approx(whole.mean, rel=1e-13)
    assert found.std == pytest.approx(whole.std, rel=1e-10)


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="no picture"):
        MomentsMeter(3).moments()
