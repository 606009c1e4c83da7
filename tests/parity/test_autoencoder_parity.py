"""The same weights give the same latents and pictures as diffusers' independent KL autoencoder."""

import pytest
import torch
from torch import nn

from autoencoder.model import Autoencoder, AutoencoderSpec, Decoder, Encoder

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


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy one layer; a 1x1 convolution may be a linear layer there."""
    assert getattr(ours, "eps", None) == getattr(theirs, "eps", None)  # too small for the output to betray it
    target = theirs.state_dict()
    theirs.load_state_dict({name: w.reshape(target[name].shape) for name, w in ours.state_dict().items()})


def res_names(ours: str, theirs: str, shortcut: bool) -> dict[str, str]:
    names = {f"{ours}.{part}": f"{theirs}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")}
    return names | ({f"{ours}.shortcut": f"{theirs}.conv_shortcut"} if shortcut else {})


def half_names(half: Encoder | Decoder, side: str, stage: str, resampler: str) -> dict[str, str]:
    """Layers of one half, ours to theirs."""
    names = {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out"}
    names |= {f"{side}.norm_out": f"{side}.conv_norm_out"}
    middle, attention = f"{side}.mid_block", f"{side}.mid_block.attentions.0"
    names |= res_names(f"{side}.middle.block1", f"{middle}.resnets.0", shortcut=False)
    names |= res_names(f"{side}.middle.block2", f"{middle}.resnets.1", shortcut=False)
    parts = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
    names |= {f"{side}.middle.attention.{mine}": f"{attention}.{other}" for mine, other in parts.items()}
    for i, level in enumerate(half.stages):
        for j, block in enumerate(level.blocks):
            wide = not isinstance(block.shortcut, nn.Identity)
            names |= res_names(f"{side}.stages.{i}.blocks.{j}", f"{side}.{stage}.{i}.resnets.{j}", wide)
        if not isinstance(level.resample, nn.Identity):
            names[f"{side}.stages.{i}.resample.conv"] = f"{side}.{stage}.{i}.{resampler}.0.conv"
    return names


def copy_net(ours: Autoencoder, theirs: nn.Module) -> None:
    names = {"encoder.quant": "quant_conv", "decoder.post_quant": "post_quant_conv"}
    names |= half_names(ours.encoder, "encoder", "down_blocks", "downsamplers")
    names |= half_names(ours.decoder, "decoder", "up_blocks", "upsamplers")
    for mine, other in names.items():
        copy(ours.get_submodule(mine), theirs.get_submodule(other))
    for net, copied in ((ours, names.keys()), (theirs, names.values())):  # nothing is left out on either side
        assert {key.rpartition(".")[0] for key in net.state_dict()} == set(copied)


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
