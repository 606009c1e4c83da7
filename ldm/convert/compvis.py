"""The single file of CompVis and Stability: one state dict, a prefix for each network, counted blocks."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from autoencoder.model import AutoencoderSpec
from ldm.convert.names import text_names
from ldm.convert.parts import Names, Parts, collect, shapes, spread
from ldm.convert.recipe import SCALE, SCHEDULE, Prediction, generation_of, recipe
from ldm.convert.rules import Rules, renamed
from ldm.convert.shape import autoencoder_spec, tower_spec, unet_spec
from ldm.convert.unlike import refuse_unlike
from ldm.convert.weights import WeightsFile
from ldm.core.bundle import BundleError, write_tensors
from ldm.nets.clip import ClipSpec
from ldm.nets.unet import UNetSpec

log = logging.getLogger(__name__)

UNET, AVERAGED, AUTOENCODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
TEXT = {1: "cond_stage_model.transformer.text_model.", 2: "cond_stage_model.model."}

# Ours to theirs inside a residual block, a transformer, the autoencoder.
INSIDE: Rules = (
    ("res.norm1", "res.in_layers.0"),
    ("res.conv1", "res.in_layers.2"),
    ("res.emb", "res.emb_layers.1"),
    ("res.norm2", "res.out_layers.0"),
    ("res.conv2", "res.out_layers.3"),
    ("res.skip", "res.skip_connection"),
    ("attention.layers.#", "attention.transformer_blocks.#"),
    ("self_attention", "attn1"),
    ("cross_attention", "attn2"),
    ("to_out", "to_out.0"),
    ("feed_forward.linear_in", "ff.net.0.proj"),
    ("feed_forward.linear_out", "ff.net.2"),
    ("middle.0.res", "middle_block.0"),
    ("middle.0.attention", "middle_block.1"),
    ("middle.1.res", "middle_block.2"),
    ("time_embed.linear1", "time_embed.0"),
    ("time_embed.linear2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"),
    ("norm_out", "out.0"),
    ("conv_out", "out.2"),
)
OF_AUTOENCODER: Rules = (
    ("encoder.quant", "quant_conv"),
    ("decoder.post_quant", "post_quant_conv"),
    ("encoder.stages.#.blocks.#", "encoder.down.#.block.#"),
    ("encoder.stages.#.resample", "encoder.down.#.downsample"),
    ("middle.block1", "mid.block_1"),
    ("middle.block2", "mid.block_2"),
    ("middle.attention.out", "mid.attn_1.proj_out"),
    ("middle.attention", "mid.attn_1"),
    ("shortcut", "nin_shortcut"),
)

# What a tower's file holds and drawing does not need, by the end of its name or by the beginning.
UNUSED_ENDS = ("position_ids", "attn_mask", "text_projection", "logit_scale")
UNUSED_STARTS = ("visual.", "loss.", "model_ema.")  # the picture tower; the discriminator of the autoencoder; ...
# Constants of the process, the counters of the average, and what some trainers and mergers add.
CONSTANTS = (
    *("betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "logvar", "lvlb_weights", "scale_factor"),
    *("model_ema.", "cond_stage_model.logit_scale", "cond_stage_model.text_projection", "v_pred", "state_dict"),
)


def unet_rules(spec: UNetSpec) -> Rules:
    """Ours to theirs. They count the blocks of all levels through, with the steps between levels among them.

    Raises:
        ValueError: levels with different numbers of blocks, which the layout does not have.
    """
    if not isinstance(spec.blocks, int):
        raise ValueError(f"net.blocks: {spec.blocks}; the layout has the same number at every level")
    per_level, rules = spec.blocks + 1, list(INSIDE)
    for level in range(len(spec.mult)):
        for layer in range(spec.blocks):
            block = f"input_blocks.{1 + level * per_level + layer}"
            rules += [(f"down.{level}.layers.{layer}.res", f"{block}.0")]
            rules += [(f"down.{level}.layers.{layer}.attention", f"{block}.1")]
        rules += [(f"down.{level}.downsample.conv", f"input_blocks.{(level + 1) * per_level}.0.op")]
        for layer in range(per_level):
            block = f"output_blocks.{level * per_level + layer}"
            rules += [(f"up.{level}.layers.{layer}.res", f"{block}.0")]
            rules += [(f"up.{level}.layers.{layer}.attention", f"{block}.1")]
        attends = len(spec.mult) - 1 - level in spec.attention_levels
        last = f"output_blocks.{level * per_level + spec.blocks}"
        rules += [(f"up.{level}.upsample", f"{last}.{2 if attends else 1}")]
    return rules


def autoencoder_rules(spec: AutoencoderSpec) -> Rules:
    """Ours to theirs. They count the decoder's levels from the finest."""
    levels = len(spec.mult)
    reverse = [(f"decoder.stages.{i}", f"decoder.up.{levels - 1 - i}") for i in range(levels)]
    up = [("up.#.blocks.#", "up.#.block.#"), ("up.#.resample", "up.#.upsample")]
    return (*OF_AUTOENCODER, *reverse, *up)


def unet_names(spec: UNetSpec) -> Names:
    """Our tensors to theirs, with their prefix."""
    rules = unet_rules(spec)
    return {ours: (UNET + renamed(ours, rules),) for ours in shapes(spec)}


def autoencoder_names(spec: AutoencoderSpec) -> Names:
    """Our tensors to theirs, with their prefix."""
    rules = autoencoder_rules(spec)
    return {ours: (AUTOENCODER + renamed(ours, rules),) for ours in shapes(spec)}


def tower_names(spec: ClipSpec, ours: Iterable[str]) -> Names:
    """Our tensors to theirs, with their prefix: transformers' names in generation 1, open_clip's, as ours, in 2."""
    generation = generation_of(spec)
    if generation == 2:
        return {name: (TEXT[2] + name.removeprefix("clip."),) for name in ours}
    return {name: tuple(TEXT[1] + theirs for theirs in text_names(name)) for name in ours}


def read_compvis(file: WeightsFile, *, prediction: Prediction | None = None, variant: str | None = None) -> Parts:
    """The parts of a single file.

    Args:
        file: of either generation, with 4 or 9 channels of input.
        prediction: what the network predicts; only needed where neither generation nor metadata tells.
        variant: "ema" or "non_ema", where the file holds both weights; None: the average.

    Raises:
        BundleError: a file of another kind, or tensors that are missing, unknown or of another shape.
        ValueError: `prediction` is needed, or the variant is not there.
    """
    tensors, path = _with_prefix(file.tensors), file.path
    refuse_unlike(tensors, file.metadata, path)
    _check_schedule(tensors, path)
    generation = 2 if any(name.startswith(TEXT[2]) for name in tensors) else 1
    unet, codec, tower = (_below(tensors, start) for start in (UNET, AUTOENCODER, TEXT[generation]))
    net_spec, codec_spec = unet_spec(unet, path), autoencoder_spec(codec, path)
    text_spec = tower_spec(tower, generation, path)
    last = f"transformer.resblocks.{(text_spec.layers or 24) - 1}."  # generation 2 stops before it
    tower = {n: t for n, t in tower.items() if generation == 1 or not n.startswith(last)}
    kind, size = _prediction(file, generation, prediction), _size(file.metadata)
    default = 768 if generation == 2 and kind == "v" else 512
    config = recipe(net_spec, text_spec, kind, size=size or default, where=path)
    _report_unread(tensors, path)
    net_shapes, text_shapes = shapes(net_spec, path), shapes(text_spec, path)
    return Parts(
        config=config,
        autoencoder=codec_spec,
        net=collect(*_averaged(tensors, unet_names(net_spec), unet, path, variant), net_shapes, path),
        codec=collect(_above(codec, AUTOENCODER), autoencoder_names(codec_spec), shapes(codec_spec, path), path),
        text=collect(_above(tower, TEXT[generation]), tower_names(text_spec, text_shapes), text_shapes, path),
    )


def write_compvis(parts: Parts, path: Path) -> None:
    """Write a single file in safetensors, in the precision of the parts.

    What generation 2 holds and never uses (its last layer of text, two projections) is filled in, for programs that
    insist on it: the layer is a copy of the one below, the projections are neutral.

    Raises:
        ValueError: the name does not end in .safetensors, or the model has what the layout has no place for.
        OSError: the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a single file is written as safetensors; let the name end in .safetensors")
    config = parts.config
    if config.schedule != SCHEDULE or config.codec.scale != SCALE:
        raise ValueError("the layout has no place for another noise schedule or scale of latents; use --to diffusers")
    theirs = spread(parts.net, unet_names(config.net)) | spread(parts.codec, autoencoder_names(parts.autoencoder))
    assert isinstance(config.text, ClipSpec)
    generation = generation_of(config.text)
    theirs |= spread(parts.text, tower_names(config.text, parts.text))
    theirs |= _positions(theirs) if generation == 1 else _stand_ins(theirs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, theirs, _metadata(parts, generation))


def _with_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Under the usual names, where a merging program left `text_model.` out."""
    short = TEXT[1].removesuffix("text_model.")
    if not any(name.startswith(f"{short}embeddings.") for name in tensors):
        return tensors
    return {TEXT[1] + n.removeprefix(short) if n.startswith(short) else n: t for n, t in tensors.items()}


def _below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Tensors whose name begins with `start`, without it and without those that nothing uses."""
    inside = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    return {n: t for n, t in inside.items() if not (n.endswith(UNUSED_ENDS) or n.startswith(UNUSED_STARTS))}


def _above(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {start + name: tensor for name, tensor in tensors.items()}


def _averaged(
    tensors: Mapping[str, Tensor], names: Names, unet: Mapping[str, Tensor], path: Path, variant: str | None
) -> tuple[dict[str, Tensor], Names]:
    """The tensors of the U-Net to read, and their names: the average where there is one and it is not declined."""
    if variant not in (None, "ema", "non_ema"):
        raise ValueError(f"--variant: '{variant}'; a single file has ema and non_ema weights")
    both = any(name.startswith(f"{AVERAGED}diffusion_model") for name in tensors)
    if not both:
        if variant == "ema":
            raise ValueError(f"--variant: {path} holds no averaged weights beside its own; leave the option out")
        return _above(unet, UNET), names
    chosen = variant or "ema"
    if variant is None:
        log.warning("%s holds the weights and their average; the average is read (--variant non_ema: the others)", path)
    if chosen == "non_ema":
        return _above(unet, UNET), names
    averaged = {ours: (_average_name(theirs),) for ours, (theirs,) in names.items()}
    starts = f"{AVERAGED}diffusion_model"
    return {name: tensor for name, tensor in tensors.items() if name.startswith(starts)}, averaged


def _average_name(name: str) -> str:
    """They take the dots out."""
    return AVERAGED + name.removeprefix("model.").replace(".", "")


def _prediction(file: WeightsFile, generation: int, asked: Prediction | None) -> Prediction:
    stated = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}.get(
        file.metadata.get("modelspec.prediction_type", "")
    )
    if "v_pred" in file.tensors:
        stated = "v"
    usual = stated or ("eps" if generation == 1 else None)
    if asked is None and usual is None:
        raise ValueError(
            f"--prediction: {file.path} is of Stable Diffusion 2, which does not say what its network predicts; give "
            "eps (2.0 and 2.1 base, 512 pixels) or v (768 pixels)"
        )
    if asked is not None and usual is not None and asked != usual:
        why = "its metadata says" if stated else "Stable Diffusion 1 was trained on"
        log.warning("%s: read as predicting %s, as asked, though %s %s", file.path, asked, why, usual)
    return asked or ("v" if usual == "v" else "eps")


def _size(metadata: Mapping[str, str]) -> int | None:
    """The side of square training pictures that the metadata names, if it does so sensibly."""
    width, _, height = metadata.get("modelspec.resolution", "").partition("x")
    return int(width) if width == height and width.isdigit() and int(width) >= 64 else None


def _check_schedule(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a table of noise that is not Stable Diffusion's. In half precision it has three digits."""
    table = tensors.get("alphas_cumprod")
    if table is None:
        return
    betas = torch.tensor(SCHEDULE.beta_table(), dtype=torch.float64)
    wanted = (1 - betas).cumprod(0)
    if table.shape != wanted.shape or not torch.allclose(table.double(), wanted, rtol=0.01):
        last = table.flatten()[-1:].tolist()
        raise BundleError(f"{path}: its noise schedule is not that of Stable Diffusion (alphas_cumprod ends at {last})")


def _report_unread(tensors: Mapping[str, Tensor], path: Path) -> None:
    known = (UNET, AUTOENCODER, "cond_stage_model.", *CONSTANTS)
    unread = sorted(name for name in tensors if not name.startswith(known))
    if unread:
        shown = ", ".join(unread[:3]) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
        log.warning("%s: tensors of no part of the model, not read: %s", path, shown)


def _positions(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    count = len(theirs[f"{TEXT[1]}embeddings.position_embedding.weight"])
    return {f"{TEXT[1]}embeddings.position_ids": torch.arange(count)[None]}


def _stand_ins(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    blocks = f"{TEXT[2]}transformer.resblocks."
    top = 1 + max(int(name.removeprefix(blocks).split(".")[0]) for name in theirs if name.startswith(blocks))
    below = f"{blocks}{top - 1}."
    made = {name.replace(below, f"{blocks}{top}."): t.clone() for name, t in theirs.items() if name.startswith(below)}
    width, dtype = theirs[f"{TEXT[2]}ln_final.weight"].shape[0], theirs[f"{TEXT[2]}ln_final.weight"].dtype
    neutral = {"text_projection": torch.eye(width, dtype=dtype), "logit_scale": torch.tensor(100.0, dtype=dtype).log()}
    return made | {TEXT[2] + name: tensor for name, tensor in neutral.items()}


def _metadata(parts: Parts, generation: int) -> dict[str, str]:
    """What other programs, and `read_compvis`, read of the model (the "modelspec" that trainers write)."""
    config = parts.config
    v, size = config.prediction.kind == "v", config.sample.size
    architecture = "stable-diffusion-v1" if generation == 1 else f"stable-diffusion-v2-{'768-v' if v else '512'}"
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": architecture,
        "implementation": "https://github.com/Stability-AI/generative-models",
        "title": "Stable Diffusion",
        "resolution": f"{size}x{size}",
        "prediction_type": "v" if v else "epsilon",
    }
    return {"format": "pt"} | {f"modelspec.{key}": value for key, value in spec.items()}
