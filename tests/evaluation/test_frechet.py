"""Frechet and kernel distances against closed forms."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.evaluation.frechet import frechet_distance, kernel_distance, squared_mmd


def noise(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample_with(mean: torch.Tensor, root: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """`n` points whose sample mean is exactly `mean` and whose sample covariance is exactly `root root^T`."""
    x = noise(n, len(mean), seed)
    x = torch.linalg.qr(x - x.mean(0)).Q * (n - 1) ** 0.5
    return mean + x @ root.T


@settings(max_examples=10, deadline=None)
@given(
    shift=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    stds=st.lists(st.floats(0.01, 3), min_size=6, max_size=6),
)
def test_gaussians_with_aligned_axes(shift, stds):
    """sum (m_a - m_b)^2 + sum (s_a - s_b)^2, even where the sets differ in size."""
    m, s_a, s_b = (torch.tensor(v, dtype=torch.float64) for v in (shift, stds[:3], stds[3:]))
    a, b = sample_with(m, s_a.diag(), 40, 1), sample_with(torch.zeros_like(m), s_b.diag(), 25, 2)
    assert frechet_distance(a, b) == pytest.approx(((m**2).sum() + ((s_a - s_b) ** 2).sum()).item(), abs=1e-9)


def test_gaussians_whose_covariances_do_not_commute():
    """In the plane tr (S_a S_b)^(1/2) = sqrt(tr(S_a S_b) + 2 sqrt(det S_a S_b))."""
    root_a = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    root_b = torch.tensor([[0.3, -1.0], [0.8, 0.4]], dtype=torch.float64)
    s_a, s_b = root_a @ root_a.T, root_b @ root_b.T
    cross = math.sqrt((s_a @ s_b).trace().item() + 2 * math.sqrt(torch.linalg.det(s_a @ s_b).item()))
    zero = torch.zeros(2, dtype=torch.float64)
    found = frechet_distance(sample_with(zero, root_a, 30, 3), sample_with(zero, root_b, 50, 4))
    assert found == pytest.approx((s_a.trace() + s_b.trace()).item() - 2 * cross, rel=1e-9)


@pytest.mark.parametrize("n", [5, 60])  # fewer and more pictures than features
def test_frechet_is_zero_for_equal_sets_and_the_squared_shift_for_moved_ones(n):
    x = noise(n, 20, 5)
    shift = noise(1, 20, 6)
    assert frechet_distance(x, x[torch.randperm(n)]) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, x + shift) == pytest.approx((shift**2).sum().item(), rel=1e-9)


def test_frechet_is_symmetric():
    a, b = noise(30, 8, 7), 2 * noise(12, 8, 8) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_kernel_distance_is_the_sum_over_distinct_pairs():
    a, b = noise(7, 3, 9), noise(5, 3, 10) + 0.5

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within_a = sum(k(a[i], a[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_b = sum(k(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    between = sum(k(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-10)


def test_kernel_distance_of_shifted_normals_on_average():
    """On the line, E k = E(xy + 1)^3 by moments: for N(0, 1) and N(m, 1) with m = 1 the distance is 22.

    Moments: (0, 1, 0) and (1, 2, 4). sum_j C(3, j) (mu_j - nu_j)^2 = 3 * 1 + 3 * 1 + 16 = 22.
    """
    values = torch.tensor([kernel_distance(noise(60, 1, seed), noise(40, 1, 999 + seed) + 1) for seed in range(400)])
    error = values.std().item() / 20
    assert values.mean().item() == pytest.approx(22.0, abs=4 * error)


def test_kernel_distance_is_zero_on_average_for_equal_laws():
    values = torch.tensor([kernel_distance(noise(30, 4, seed), noise(20, 4, 999 + seed)) for seed in range(400)])
    assert values.mean().item() == pytest.approx(0.0, abs=4 * values.std().item() / 20)
    assert (values < 0).any()  # unbiased, so not clipped


def test_kernel_sum_in_blocks(monkeypatch):
    a, b = noise(30, 4, 11), noise(20, 4, 12)
    whole = kernel_distance(a, b)
    monkeypatch.setattr("ldm.evaluation.frechet._BLOCK", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("distance", [frechet_distance, squared_mmd])
@pytest.mark.parametrize("a, b", [(noise(1, 3, 0), noise(4, 3, 0)), (noise(4, 3, 0), noise(4, 2, 0))])
def test_sets_that_do_not_compare_are_refused(distance, a, b):
    with pytest.raises(ValueError, match="at least 2 rows each, of equal width"):
        inspect.unwrap(distance)(a, b)  # past the tests' shape checker, which refuses unequal widths too
