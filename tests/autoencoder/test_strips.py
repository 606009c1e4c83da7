"""In strips, a picture is decoded and encoded to the same numbers as at once."""

import pytest
import torch
from torch import nn

from autoencoder import strips
from autoencoder.model import Autoencoder, AutoencoderSpec

SPECS = {
    "sd": AutoencoderSpec(channels=8, mult=(1, 2, 2), blocks=1, norm_groups=4),
    "folded": AutoencoderSpec(
        channels=8, decoder_channels=12, mult=(2, 1), blocks=2, patch=2, attention=False, norm_groups=4
    ),
    "flat": AutoencoderSpec(channels=8, mult=(1,), blocks=1, norm_groups=4),
}


@pytest.mark.parametrize("numbers", [1, 300, 1000, 10**6])
@pytest.mark.parametrize("name", SPECS)
@torch.inference_mode()
def test_strips_are_the_whole(name, numbers, monkeypatch):
    monkeypatch.setattr(strips, "NUMBERS", numbers)
    model = Autoencoder(SPECS[name]).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.3)  # a mean, so that channels stand far from zero
    x = torch.rand(2, 3, 24, 16).double() * 2 - 1
    ours, whole = strips.encode_in_strips(model, x), model.encode(x)
    torch.testing.assert_close(ours.mean, whole.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.var, whole.var, rtol=1e-5, atol=1e-5)
    z = torch.randn(2, *model.latent_shape(40, 24)).double()
    torch.testing.assert_close(strips.decode_in_strips(model, z), model.decode(z))
