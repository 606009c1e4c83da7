"""Stable Diffusion at its published sizes, without weights: every name, every shape, every count of parameters."""

import pytest
import torch

from autoencoder.model import AutoencoderSpec
from ldm.convert import compvis
from ldm.convert.names import autoencoder_name, text_names, unet_name
from ldm.convert.parts import shapes
from ldm.convert.recipe import text_spec
from ldm.nets.unet import UNetSpec

diffusers = pytest.importorskip("diffusers")

SD1, SD2 = UNetSpec(), UNetSpec(heads=None, head_channels=64, context_dim=1024, linear_projection=True)
THEIRS = {"block_out_channels": (320, 640, 1280, 1280)}
UNETS = {
    "1": (SD1, {"cross_attention_dim": 768, "attention_head_dim": 8}, 859_520_964),
    "1-inpainting": (
        UNetSpec(cond_channels=5),
        {"cross_attention_dim": 768, "attention_head_dim": 8, "in_channels": 9},
        859_535_364,
    ),
    "2": (
        SD2,
        {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        865_910_724,
    ),
}
TOWERS = {1: (text_spec(1, 768, 12, heads=12, pad="eot"), 123_060_480, 196)}
TOWERS |= {2: (text_spec(2, 1024, 24, heads=16, pad="zero"), 340_387_840, 372)}


def tagged(names) -> dict[str, torch.Tensor]:
    """A tensor for each name that can be told from the others."""
    return {name: torch.full((1, 1, 1, 1), float(i)) for i, name in enumerate(names)}


def same_tags(converted: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return {n: t.item() for n, t in converted.items()} == {n: t.item() for n, t in expected.items()}


@pytest.mark.parametrize("name", UNETS)
def test_unet(name):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    spec, options, parameters = UNETS[name]
    ours = shapes(spec)
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**THEIRS, **options)
    assert {unet_name(n): shape for n, shape in ours.items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert (sum(shape.numel() for shape in ours.values()), len(ours)) == (parameters, 686)
    single = {theirs: tagged(ours)[n] for n, (theirs,) in compvis.unet_names(spec).items()}
    expected = {unet_name(n): tag for n, tag in tagged(ours).items()}
    assert same_tags(convert_ldm_unet_checkpoint(single, {"layers_per_block": 2}), expected)


def test_autoencoder():
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    spec = AutoencoderSpec()
    ours = shapes(spec)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **blocks
        )
    wanted = {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    mine = {autoencoder_name(n): tuple(shape) for n, shape in ours.items()}
    assert mine.keys() == wanted.keys()
    for name, shape in mine.items():
        assert shape == wanted[name] or (".attentions.0.to_" in name and shape == (*wanted[name], 1, 1))
    assert (sum(shape.numel() for shape in ours.values()), len(ours)) == (83_653_863, 248)
    single = {theirs: tagged(ours)[n] for n, (theirs,) in compvis.autoencoder_names(spec).items()}
    expected = {autoencoder_name(n): tag for n, tag in tagged(ours).items()}
    assert same_tags(convert_ldm_vae_checkpoint(single, blocks), expected)


@pytest.mark.parametrize("generation", TOWERS)
def test_text(generation):
    from transformers import CLIPTextConfig, CLIPTextModel

    spec, parameters, tensors = TOWERS[generation]
    ours = shapes(spec)
    width = 768 if generation == 1 else 1024
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=12 if generation == 1 else 23,
        num_attention_heads=width // 64,
        vocab_size=49408,
    )
    with torch.device("meta"):
        theirs = CLIPTextModel(config)
    wanted = {n.removeprefix("text_model."): tuple(t.shape) for n, t in theirs.state_dict().items()}
    mine = {}
    for name, shape in ours.items():
        group = text_names(name)
        mine |= dict.fromkeys(group, (shape[0] // len(group), *shape[1:]))
    assert mine == wanted
    assert (sum(shape.numel() for shape in ours.values()), len(mine)) == (parameters, tensors)


def test_names_that_are_written_down_elsewhere():
    unet = {theirs for (theirs,) in compvis.unet_names(SD1).values()}
    codec = {theirs for (theirs,) in compvis.autoencoder_names(AutoencoderSpec()).values()}
    text = {t for group in compvis.tower_names(TOWERS[1][0], shapes(TOWERS[1][0])).values() for t in group}
    open_clip = {t for group in compvis.tower_names(TOWERS[2][0], shapes(TOWERS[2][0])).values() for t in group}
    blocks = "model.diffusion_model."
    assert {
        f"{blocks}output_blocks.11.0.skip_connection.weight",
        f"{blocks}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
        f"{blocks}output_blocks.2.1.conv.weight",
        f"{blocks}output_blocks.5.2.conv.weight",
        f"{blocks}input_blocks.3.0.op.weight",
        f"{blocks}middle_block.1.proj_in.weight",
        f"{blocks}time_embed.0.weight",
        f"{blocks}out.2.bias",
    } <= unet
    assert {
        "first_stage_model.decoder.up.3.upsample.conv.weight",
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight",
        "first_stage_model.decoder.mid.attn_1.proj_out.weight",
        "first_stage_model.quant_conv.weight",
    } <= codec
    assert "cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight" in text
    assert "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight" in open_clip


@pytest.mark.parametrize(("spec", "name", "parts"), [(SD1, unet_name, 282), (AutoencoderSpec(), autoencoder_name, 72)])
def test_every_layer_has_a_name_of_its_own(spec, name, parts):
    """Names of modules, as adapters need them, and not only of tensors."""
    modules = {tensor.rpartition(".")[0] for tensor, shape in shapes(spec).items() if len(shape) > 1}
    assert len({name(module) for module in modules}) == len(modules) == parts
