"""The same weights give the same output as diffusers' independent implementation of the same network."""

import pytest
import torch

from ldm.nets.cond import Cond
from ldm.nets.unet import Layer, UNet, UNetSpec

diffusers = pytest.importorskip("diffusers")

SMALL = {"channels": 32, "mult": (1, 2, 2), "blocks": 2, "attention_levels": (0, 1), "norm_groups": 8}
SD1_LIKE = UNetSpec(**SMALL, heads=4, context_dim=24)
SD2_LIKE = UNetSpec(**SMALL, heads=None, head_channels=8, context_dim=40, linear_projection=True)
OURS_ONLY = UNetSpec(  # what Stable Diffusion does not use
    channels=32,
    mult=(1, 2),
    blocks=(1, 2),
    depth=(1, 2),
    attention_levels=(0, 1),
    heads=4,
    context_dim=24,
    pooled_dim=20,
    norm_groups=8,
    scale_shift=True,
)
# The arguments with which diffusers builds the same network; its `attention_head_dim` is a number of heads.
THEIRS = {
    "sd1": {"attention_head_dim": 4},
    "sd2": {"attention_head_dim": (4, 8, 8), "use_linear_projection": True},
    "ours": {
        "attention_head_dim": 4,
        "layers_per_block": (1, 2),
        "transformer_layers_per_block": (1, 2),
        "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 20,
    },
}
SPECS = {"sd1": SD1_LIKE, "sd2": SD2_LIKE, "ours": OURS_ONLY}


def their_net(name: str):
    spec = SPECS[name]
    attends = [level in spec.attention_levels for level in range(len(spec.mult))]
    common = {
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "block_out_channels": spec.widths,
        "layers_per_block": spec.blocks,
        "cross_attention_dim": spec.context_dim,
        "norm_num_groups": spec.norm_groups,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    }
    return diffusers.UNet2DConditionModel(**(common | THEIRS[name])).eval()


def copy(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())
    assert getattr(ours, "eps", None) == getattr(theirs, "eps", None)  # too small for the output to betray it


def copy_all(ours: torch.nn.Module, theirs: torch.nn.Module, names: dict[str, str]) -> None:
    """Copy submodules; `names` maps ours to theirs and must leave none of theirs out."""
    for mine, other in names.items():
        copy(ours.get_submodule(mine), theirs.get_submodule(other))
    covered = tuple(f"{other}." for other in names.values())
    assert all(key.startswith(covered) for key in theirs.state_dict())


def copy_layer(layer: Layer, resnet: torch.nn.Module, transformer: torch.nn.Module | None) -> None:
    res = {"norm1": "norm1", "conv1": "conv1", "emb": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
    if isinstance(layer.res.skip, torch.nn.Conv2d):
        res["skip"] = "conv_shortcut"
    copy_all(layer.res, resnet, res)
    if transformer is None:
        assert layer.attention is None
        return
    inside = {
        "norm1": "norm1",
        "norm2": "norm2",
        "norm3": "norm3",
        "feed_forward.linear_in": "ff.net.0.proj",
        "feed_forward.linear_out": "ff.net.2",
    }
    for mine, other in (("self_attention", "attn1"), ("cross_attention", "attn2")):
        inside |= {f"{mine}.to_{part}": f"{other}.to_{part}" for part in "qkv"} | {
            f"{mine}.to_out": f"{other}.to_out.0"
        }
    names = {name: name for name in ("norm", "proj_in", "proj_out")}
    for i in range(len(layer.attention.layers)):
        names |= {f"layers.{i}.{mine}": f"transformer_blocks.{i}.{other}" for mine, other in inside.items()}
    copy_all(layer.attention, transformer, names)


def copy_levels(levels, blocks, resampler: str) -> None:
    for level, block in zip(levels, blocks, strict=True):
        transformers = getattr(block, "attentions", [None] * len(block.resnets))
        for layer, resnet, transformer in zip(level.layers, block.resnets, transformers, strict=True):
            copy_layer(layer, resnet, transformer)
        mine, other = getattr(level, resampler), getattr(block, f"{resampler}rs")
        assert (mine is None) == (other is None)
        if mine is not None:
            copy(mine.conv, other[0].conv)


def copy_net(ours: UNet, theirs: torch.nn.Module) -> None:
    embeddings = {"time_embed": "time_embedding", "pooled_embed": "class_embedding"}
    for mine, other in embeddings.items():
        if getattr(ours, mine) is not None:
            parts = {"linear1": "linear_1", "linear2": "linear_2"}
            copy_all(getattr(ours, mine), getattr(theirs, other), parts)
    for mine, other in {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}.items():
        copy(getattr(ours, mine), getattr(theirs, other))
    copy_levels(ours.down, theirs.down_blocks, "downsample")
    copy_levels(ours.up, theirs.up_blocks, "upsample")
    middle = theirs.mid_block
    copy_layer(ours.middle[0], middle.resnets[0], middle.attentions[0])
    copy_layer(ours.middle[1], middle.resnets[1], None)


@torch.no_grad()
@pytest.mark.parametrize("name", SPECS)
def test_same_weights_same_output(name):
    torch.manual_seed(0)
    spec = SPECS[name]
    ours, theirs = UNet(spec).eval(), their_net(name)
    for parameter in ours.parameters():  # everywhere nonzero, near the size of a trained network's weights
        parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    copy_net(ours, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, steps, tokens = torch.randn(3, 4, 8, 12), torch.tensor([0.0, 500.0, 999.0]), torch.randn(3, 7, spec.context_dim)
    mask = torch.arange(7)[None, :] < torch.tensor([1, 4, 7])[:, None]
    pooled = torch.randn(3, spec.pooled_dim) if spec.pooled_dim else None
    out = ours(x, steps, Cond(tokens, mask, pooled))
    expected = theirs(x, steps, tokens, encoder_attention_mask=mask, class_labels=pooled).sample
    assert (out - expected).abs().max() <= 1e-4 * expected.std()
