"""The configuration files of a diffusers folder, to our specifications and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from autoencoder.model import AutoencoderSpec
from ldm.config import RunConfig
from ldm.convert.folder_checks import DIFFUSERS, Config, check_fixed, check_sizes, reading
from ldm.convert.recipe import INPAINTING, TOWERS, generation_of
from ldm.convert.recipe import text_spec as tower
from ldm.nets.clip import ClipSpec
from ldm.nets.unet import UNetSpec

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionImg2ImgPipeline")
ACTIVATIONS = {1: "quick_gelu", 2: "gelu"}

LAYERS, WIDE = 100, 100_000  # more than any such network has
UNET_SIZES = {
    "block_out_channels": WIDE,
    "layers_per_block": LAYERS,
    "transformer_layers_per_block": LAYERS,
    "in_channels": WIDE,
    "out_channels": WIDE,
    "cross_attention_dim": WIDE,
    "attention_head_dim": WIDE,
    "num_attention_heads": WIDE,
    "norm_num_groups": WIDE,
}
VAE_SIZES = {
    "block_out_channels": WIDE,
    "layers_per_block": LAYERS,
    "in_channels": WIDE,
    "latent_channels": WIDE,
    "norm_num_groups": WIDE,
}
TEXT_SIZES = {"num_hidden_layers": LAYERS, "hidden_size": WIDE, "num_attention_heads": WIDE}
# What both generations leave at these values, so that no specification of ours has it.
UNET_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
}
VAE_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


def unet_spec(config: Config, where: Path) -> UNetSpec:
    """Shape of the U-Net of `unet/config.json`.

    Raises:
        BundleError: it is not one of Stable Diffusion 1 or 2.
    """
    check_fixed(config, UNET_FIXED, where / "unet")
    check_sizes(config, UNET_SIZES, where / "unet" / "config.json")
    return reading(lambda: _unet_spec(config), where / "unet" / "config.json")


def _unet_spec(config: Config) -> UNetSpec:
    widths = list(config["block_out_channels"])
    channels, latent = widths[0], config.get("out_channels", 4)
    attends = [name == "CrossAttnDownBlock2D" for name in config["down_block_types"]]
    plain = [name in ("CrossAttnDownBlock2D", "DownBlock2D") for name in config["down_block_types"]]
    if not all(plain) or any(width % channels for width in widths):
        raise ValueError(f"blocks {config['down_block_types']} of {widths} channels are not Stable Diffusion's")
    heads, head_channels = _heads(config, widths)
    return UNetSpec(
        in_channels=latent,
        out_channels=latent,
        cond_channels=config.get("in_channels", 4) - latent,
        channels=channels,
        mult=tuple(width // channels for width in widths),
        blocks=_per_level(config.get("layers_per_block", 2)),
        attention_levels=tuple(level for level, attended in enumerate(attends) if attended),
        depth=_per_level(config.get("transformer_layers_per_block", 1)),
        heads=heads,
        head_channels=head_channels,
        context_dim=config["cross_attention_dim"],
        linear_projection=config.get("use_linear_projection", False),
        norm_groups=config.get("norm_num_groups", 32),
    )


def _heads(config: Config, widths: list[int]) -> tuple[int | None, int | None]:
    """Heads, or channels of a head. What diffusers calls `attention_head_dim` is a number of heads."""
    given = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    if isinstance(given, int):
        return given, None
    sizes = {width // count for width, count in zip(widths, given, strict=True)}
    if len(set(given)) == 1:
        return given[0], None
    if len(sizes) == 1:
        return None, sizes.pop()
    raise ValueError(f"attention_head_dim {given} is neither one number of heads nor heads of one size")


def _per_level(value: int | list[int]) -> int | tuple[int, ...]:
    return value if isinstance(value, int) else tuple(value)


def unet_config(config: RunConfig, factor: int) -> dict[str, Any]:
    """`unet/config.json` of a U-Net.

    Raises:
        ValueError: the U-Net has what diffusers' layout of Stable Diffusion has no place for.
    """
    spec = config.net
    attends = [level in spec.attention_levels for level in range(len(spec.mult))]
    by_level = [spec.heads_at(width) for width in spec.widths]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS,
        "sample_size": config.sample.size // factor,
        "in_channels": spec.in_channels + spec.cond_channels,
        "out_channels": spec.out_channels,
        "block_out_channels": list(spec.widths),
        "layers_per_block": spec.blocks if isinstance(spec.blocks, int) else list(spec.blocks),
        "transformer_layers_per_block": spec.depth if isinstance(spec.depth, int) else list(spec.depth),
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
        "attention_head_dim": spec.heads if spec.heads is not None else by_level,
        "cross_attention_dim": spec.context_dim,
        "use_linear_projection": spec.linear_projection,
        "norm_num_groups": spec.norm_groups,
    } | UNET_FIXED


def autoencoder_spec(config: Config, where: Path) -> AutoencoderSpec:
    """Shape of the autoencoder of `vae/config.json`.

    Raises:
        BundleError: it is not a KL autoencoder of Stable Diffusion's kind.
    """
    check_fixed(config, VAE_FIXED, where / "vae")
    check_sizes(config, VAE_SIZES, where / "vae" / "config.json")
    return reading(lambda: _autoencoder_spec(config), where / "vae" / "config.json")


def _autoencoder_spec(config: Config) -> AutoencoderSpec:
    widths = list(config["block_out_channels"])
    if any(width % widths[0] for width in widths):
        raise ValueError(f"blocks of {widths} channels are not Stable Diffusion's")
    return AutoencoderSpec(
        image_channels=config.get("in_channels", 3),
        latent_channels=config.get("latent_channels", 4),
        channels=widths[0],
        mult=tuple(width // widths[0] for width in widths),
        blocks=config.get("layers_per_block", 1),
        attention=config.get("mid_block_add_attention", True),
        norm_groups=config.get("norm_num_groups", 32),
    )


def autoencoder_config(spec: AutoencoderSpec, config: RunConfig) -> dict[str, Any]:
    """`vae/config.json` of an autoencoder.

    Raises:
        ValueError: it folds pixels into channels, or its decoder is narrower than its encoder.
    """
    if spec.patch != 1 or spec.decoder_channels not in (None, spec.channels):
        raise ValueError("autoencoder: patch and decoder_channels have no place in diffusers' AutoencoderKL")
    levels = len(spec.mult)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS,
        "sample_size": config.sample.size,
        "in_channels": spec.image_channels,
        "out_channels": spec.image_channels,
        "latent_channels": spec.latent_channels,
        "block_out_channels": [spec.channels * m for m in spec.mult],
        "layers_per_block": spec.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": spec.attention,
        "norm_num_groups": spec.norm_groups,
        "scaling_factor": config.codec.scale,
    } | VAE_FIXED


def text_spec(config: Config, pad: Literal["zero", "eot"] | None, where: Path) -> ClipSpec:
    """Shape of the text tower of `text_encoder/config.json`.

    Args:
        config: of transformers' CLIPTextModel. A tower of generation 2 comes without its last layer.
        pad: from the tokenizer; None: as in its generation.
        where: the folder, for messages.

    Raises:
        BundleError: it is not a text tower of Stable Diffusion 1 or 2.
    """
    check_sizes(config, TEXT_SIZES, where / "text_encoder" / "config.json")
    return reading(lambda: _text_spec(config, pad), where / "text_encoder" / "config.json")


def _text_spec(config: Config, pad: Literal["zero", "eot"] | None) -> ClipSpec:
    config = {"num_hidden_layers": 12, "num_attention_heads": 8, "hidden_size": 512, **config}  # transformers' own
    width, activation = config["hidden_size"], config.get("hidden_act", "quick_gelu")
    if activation not in ACTIVATIONS.values():
        raise ValueError(f"hidden_act is {activation!r}; a text tower of CLIP has quick_gelu or gelu")
    generation = 1 if activation == ACTIVATIONS[1] else 2
    layers = config["num_hidden_layers"] + (generation == 2)
    usual: Literal["zero", "eot"] = "eot" if generation == 1 else "zero"
    return tower(generation, width, layers, heads=config["num_attention_heads"], pad=pad or usual)


def text_config(spec: ClipSpec, text: Mapping[str, Tensor]) -> dict[str, Any]:
    """`text_encoder/config.json` of a text tower with these tensors."""
    positions, width = text["clip.positional_embedding"].shape
    blocks = {name.split(".")[3] for name in text if name.startswith("clip.transformer.resblocks.")}
    generation = generation_of(spec)
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": text["clip.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": spec.heads or TOWERS[generation][2],
        "max_position_embeddings": positions,
        "vocab_size": text["clip.token_embedding.weight"].shape[0],
        "hidden_act": ACTIVATIONS[generation],
        "layer_norm_eps": 1e-5,
        "projection_dim": width,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407 if spec.pad == "eot" else 0,
    }


def index(config: RunConfig) -> dict[str, Any]:
    """`model_index.json`."""
    return {
        "_class_name": PIPELINES[1] if config.net.cond_channels == INPAINTING else PIPELINES[0],
        "_diffusers_version": DIFFUSERS,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
