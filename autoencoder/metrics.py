"""Fidelity of reconstructed pictures, one number per picture: PSNR and SSIM for pixels in [-1, 1]."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ldm.core.precision import in_float64
from ldm.core.shapes import Image, PerImage

DATA_RANGE = 2.0  # pixels lie in [-1, 1]
WINDOW = 11  # pixels
WINDOW_SIGMA = 1.5  # pixels


def psnr(x: Image, y: Image) -> PerImage:
    """Peak signal-to-noise ratio, 10 log10(range^2 / mean squared error), in dB; inf for equal pictures."""
    error = ((x - y) ** 2).flatten(1).mean(1)
    return 10.0 * torch.log10(DATA_RANGE**2 / error)


def ssim(x: Image, y: Image) -> PerImage:
    """Structural similarity, averaged over channels and over the places where the whole window fits; 1 when equal.

    With means m, variances s^2 and covariance c under an 11 x 11 Gaussian window of sigma 1.5:

        (2 m_x m_y + C1) (2 c_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)),  C1 = (0.01 L)^2, C2 = (0.03 L)^2

    Computed in float64, because a variance is a difference of two nearly equal numbers: on the CPU for a device
    without it.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", Eq. 13.

    Raises:
        ValueError: the pictures are smaller than the window.
    """
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"x: pictures of {tuple(x.shape[-2:])} pixels; SSIM needs at least {WINDOW} each way")
    given, x, y = x, in_float64(x), in_float64(y)
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    cov = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1).to(given)


def _windowed(x: Image) -> Tensor:
    """Gaussian-weighted local mean of each channel, where the window fits: (b, c, h - 10, w - 10)."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, WINDOW)
    rows = conv2d(x, weights[..., None], groups=x.shape[1])
    return conv2d(rows, weights[:, :, None], groups=x.shape[1])
