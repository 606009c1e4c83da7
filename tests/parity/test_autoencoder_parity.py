"""The same weights give the same latents and pictures as diffusers' independent KL autoencoder."""

import pytest
import torch
from torch import nn

from autoencoder.model import Autoencoder, AutoencoderSpec
from ldm.convert.names import autoencoder_name
from ldm.convert.parts import reshaped

diffusers = pytest.importorskip("diffusers")

SPEC = AutoencoderSpec(channels=32, mult=(1, 2, 2), blocks=2, norm_groups=8)


def their_net() -> nn.Module:
    levels = len(SPEC.mult)
    net = diffusers.AutoencoderKL(
        block_out_channels=[SPEC.channels * m for m in SPEC.mult],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=SPEC.blocks,
        latent_channels=SPEC.latent_channels,
        norm_num_groups=SPEC.norm_groups,
    )
    return net.eval()


def copy_net(ours: Autoencoder, theirs: nn.Module) -> None:
    """Copy by name, every tensor; a 1x1 convolution may be a linear layer there."""
    target = theirs.state_dict()
    named = {autoencoder_name(name): tensor for name, tensor in ours.state_dict().items()}
    theirs.load_state_dict({name: reshaped(tensor, target[name].shape) for name, tensor in named.items()})
    for name, module in ours.named_modules():
        if hasattr(module, "eps"):  # too small for the output to betray it
            assert module.eps == theirs.get_submodule(autoencoder_name(name)).eps


@torch.no_grad()
def test_same_weights_same_output():
    ours, theirs = Autoencoder(SPEC).eval(), their_net()
    for parameter in ours.parameters():  # everywhere nonzero, near the size of a trained network's weights
        parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    copy_net(ours, theirs)
    x = torch.rand(2, 3, 24, 32) * 2 - 1
    posterior, expected = ours.encode(x), theirs.encode(x).latent_dist
    for mine, other in ((posterior.mean, expected.mean), (posterior.var.log(), expected.logvar)):
        assert (mine - other).abs().max() <= 1e-4 * other.std()
    z = torch.randn(2, 4, 6, 8)
    picture = theirs.decode(z).sample
    assert (ours.decode(z) - picture).abs().max() <= 1e-4 * picture.std()
