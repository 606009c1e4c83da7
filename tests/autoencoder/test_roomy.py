"""An autoencoder that runs out of memory goes on in strips, and overflows into float32."""

import copy

import pytest
import torch

from autoencoder.model import Autoencoder, AutoencoderSpec
from autoencoder.roomy import RoomyAutoencoder
from ldm.core.packed import pack

SPEC = AutoencoderSpec(channels=8, mult=(1, 2), blocks=1, norm_groups=4)


@pytest.fixture
def model():
    return Autoencoder(SPEC).eval().requires_grad_(False)


@torch.inference_mode()
def test_out_of_memory_goes_on_in_strips(model, monkeypatch):
    z, x = torch.randn(2, 4, 6, 5), torch.rand(2, 3, 12, 10)
    picture, posterior = model.decode(z), model.encode(x)

    def fail(self, given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Autoencoder, "decode", fail)
    monkeypatch.setattr(Autoencoder, "encode", fail)
    roomy = RoomyAutoencoder(model, strips=False)
    with pytest.warns(UserWarning, match="not enough memory"):
        torch.testing.assert_close(roomy.decode(z), picture)
    with pytest.warns(UserWarning, match="not enough memory"):
        torch.testing.assert_close(roomy.encode(x).mean, posterior.mean, rtol=1e-4, atol=1e-4)


def test_another_error_is_not_swallowed(model, monkeypatch):
    def fail(self, given):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Autoencoder, "decode", fail)
    with pytest.raises(RuntimeError, match="do not fit"):
        RoomyAutoencoder(model, strips=False).decode(torch.randn(1, 4, 4, 4))


@pytest.mark.parametrize("strips", [False, True])
@torch.inference_mode()
def test_narrow_weights_are_widened_where_wide_arithmetic_is_asked_for(model, strips):
    narrow = copy.deepcopy(model).bfloat16()
    wide, z = copy.deepcopy(narrow).float(), torch.randn(1, 4, 6, 5)
    roomy = RoomyAutoencoder(narrow, strips=strips)
    pack(roomy)
    with torch.autocast("cpu", torch.bfloat16):
        assert roomy.decode(z).dtype == torch.bfloat16
    torch.testing.assert_close(roomy.decode(z), wide.decode(z))
