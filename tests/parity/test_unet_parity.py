"""The same weights give the same output as diffusers' independent implementation of the same network."""

import pytest
import torch

from ldm.convert.names import unet_name
from ldm.nets.cond import Cond
from ldm.nets.unet import UNet, UNetSpec

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


def copy_net(ours: UNet, theirs: torch.nn.Module) -> None:
    """Copy by name, every tensor."""
    theirs.load_state_dict({unet_name(name): tensor for name, tensor in ours.state_dict().items()})
    for name, module in ours.named_modules():
        if hasattr(module, "eps"):  # too small for the output to betray it
            assert module.eps == theirs.get_submodule(unet_name(name)).eps


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
