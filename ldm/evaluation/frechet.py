"""Distances between two sets of pictures by their features: Frechet distance and kernel distance.

On the features of this package they are "FD-effnet-lite0" and "KD-effnet-lite0". They are not FID and KID, which are
defined on Inception features: their values compare with each other only.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.evaluation.features import Features, Gallery

FRECHET_NAME = "FD-effnet-lite0"
KERNEL_NAME = "KD-effnet-lite0"
_BLOCK = 1024  # rows of the kernel matrix held at a time


def frechet_distance(a: Features, b: Gallery) -> float:
    """Squared Wasserstein-2 distance of the Gaussians fitted to two sets of features; 0 for equal sets.

        |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

    The last trace is computed as the sum of singular values of R_a R_b^T, with S = R^T R and R from a QR factorisation
    of the centred features: no root of a nearly singular matrix is taken, so fewer pictures than features are no
    special case. The estimate is biased upwards, the more so the fewer pictures: compare only at equal numbers.

    Source: Heusel et al. 2017 (arXiv:1706.08500) Eq. 6.

    Raises:
        ValueError: fewer than two pictures in a set, or features of unequal width.
    """
    _require_two(a, b)
    mean_a, root_a = _moments(a)
    mean_b, root_b = _moments(b)
    shared = torch.linalg.matrix_norm(root_a @ root_b.T, ord="nuc")
    distance = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    return max(distance.item(), 0.0)  # rounding can leave a tiny negative


def kernel_distance(a: Features, b: Gallery) -> float:
    """`squared_mmd` as a number."""
    return squared_mmd(a, b).item()


def squared_mmd(a: Features, b: Gallery) -> Float[Tensor, ""]:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3; 0 on average for equal laws.

    Differentiable, float64. It may be negative. Being unbiased, it compares across different numbers of pictures.

    Source: Binkowski et al. 2018 (arXiv:1801.01401) section 4; Gretton et al. 2012 Eq. 3.

    Raises:
        ValueError: fewer than two pictures in a set, or features of unequal width.
    """
    _require_two(a, b)
    a, b = a.double(), b.double()
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - _kernel(a, a).sum()) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel(b, b).sum()) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b) / (n * m)


def _moments(x: Features) -> tuple[Float[Tensor, " d"], Float[Tensor, "r d"]]:
    """Mean m (d,) and root R (min(n, d), d) of the unbiased covariance, R^T R = S, in float64."""
    x = x.double()
    mean = x.mean(0)
    return mean, torch.linalg.qr(x - mean, mode="r").R / (len(x) - 1) ** 0.5


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Kernel of matching rows (n,)."""
    return ((x * y).sum(1) / x.shape[1] + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the kernel over all pairs of rows, a block of rows at a time."""
    return torch.stack([((block @ y.T / x.shape[1] + 1) ** 3).sum() for block in x.split(_BLOCK)]).sum()


def _require_two(a: Tensor, b: Tensor) -> None:
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a, b: features of shapes {tuple(a.shape)}, {tuple(b.shape)}; give at least 2 rows each, of equal width"
        )
