"""PSNR and SSIM against their definitions and against scikit-image."""

import math

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from autoencoder.metrics import psnr, ssim


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Two photographs (2, 3, 96, 96) in [-1, 1] and noisy copies of different strength."""
    crops = [skimage.data.chelsea()[100:196, 150:246], skimage.data.coffee()[100:196, 200:296]]
    x = torch.tensor(np.stack(crops)).permute(0, 3, 1, 2).double() / 127.5 - 1
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return x, (x + noise * torch.tensor([0.05, 0.3]).reshape(2, 1, 1, 1)).clamp(-1, 1)


@settings(max_examples=10, deadline=None)
@given(offset=st.floats(1e-3, 2.0))
def test_psnr_of_a_constant_error(offset):
    """An error of c everywhere: 20 log10(2 / c)."""
    x = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    assert psnr(x, x + offset).tolist() == pytest.approx([20 * math.log10(2 / offset)] * 2, rel=1e-9)


def test_psnr_of_equal_pictures_is_infinite():
    x, _ = pictures()
    assert psnr(x, x).tolist() == [math.inf, math.inf]


def test_psnr_agrees_with_scikit_image_picture_by_picture():
    x, y = pictures()
    known = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=2) for a, b in zip(x, y, strict=True)]
    assert psnr(x, y).tolist() == pytest.approx(known, rel=1e-10)


def test_ssim_agrees_with_scikit_image_picture_by_picture():
    x, y = pictures()
    options = {"data_range": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    known = [structural_similarity(a.numpy(), b.numpy(), channel_axis=0, **options) for a, b in zip(x, y, strict=True)]
    assert ssim(x, y).tolist() == pytest.approx(known, abs=1e-9)
    assert ssim(x.float(), y.float()).tolist() == pytest.approx(known, abs=1e-5)


def test_ssim_is_one_for_equal_pictures_and_symmetric():
    x, y = pictures()
    assert ssim(x, x).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert torch.allclose(ssim(x, y), ssim(y, x), rtol=1e-12)


def test_ssim_of_flat_pictures_is_its_luminance_term():
    """No variance: only (2ab + C1) / (a^2 + b^2 + C1) is left, C1 = 0.0004."""
    a, b = 0.5, -0.25
    x, y = torch.full((1, 3, 16, 20), a), torch.full((1, 3, 16, 20), b)
    assert ssim(x, y).item() == pytest.approx((2 * a * b + 4e-4) / (a * a + b * b + 4e-4), rel=1e-5)


def test_ssim_refuses_pictures_below_its_window():
    with pytest.raises(ValueError, match="at least 11"):
        ssim(torch.zeros(1, 3, 10, 32), torch.zeros(1, 3, 10, 32))
