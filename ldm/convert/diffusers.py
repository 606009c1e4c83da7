"""The folder of diffusers: one sub-folder for each network, each with its configuration."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.convert import folder_configs as configs
from ldm.convert.folder_checks import reading
from ldm.convert.names import autoencoder_name, text_names, unet_name
from ldm.convert.parts import Names, Parts, Spec, collect, shapes, spread
from ldm.convert.recipe import Prediction, generation_of, recipe
from ldm.convert.scheduler import process, scheduler_config
from ldm.convert.tokenizer import padding, write_json, write_tokenizer
from ldm.convert.unlike import SUPPORTED
from ldm.convert.weights import read_weights
from ldm.core.bundle import BundleError, write_tensors
from ldm.nets.clip import ClipSpec

INDEX = "model_index.json"
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
PICKLED = {**WEIGHTS, "text_encoder": "pytorch_model"}
SUFFIXES = (".safetensors", ".bin")
TEXT_PREFIX = "text_model."  # that transformers writes in some versions

# Names of the autoencoder's attention in files that older versions wrote.
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_diffusers(folder: Path) -> bool:
    """Whether a folder is meant to be one of diffusers."""
    return (folder / INDEX).is_file() or (folder / "unet").is_dir()


def read_diffusers(
    folder: Path, *, prediction: Prediction | None = None, variant: str | None = None, allow_pickle: bool = False
) -> Parts:
    """The parts of a diffusers folder.

    Args:
        folder: with `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler`.
        prediction: only to contradict the scheduler's configuration, or where there is none.
        variant: part of the file names, such as fp16 or non_ema; None: without, or fp16 where there is no other.
        allow_pickle: read `.bin` files too, see `read_weights`.

    Raises:
        BundleError: a file is missing or damaged, or the model is of another kind.
        ValueError: the variant is not there, or the prediction is not known.
    """
    _check_pipeline(folder)
    net_spec = configs.unet_spec(_json(folder / "unet" / "config.json"), folder)
    vae = _json(folder / "vae" / "config.json")
    codec_spec = configs.autoencoder_spec(vae, folder)
    text_spec = configs.text_spec(_json(folder / "text_encoder" / "config.json"), padding(folder / "tokenizer"), folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    schedule, kind = process(_json_or_empty(scheduler), folder, prediction)
    if kind is None:
        raise ValueError(f"--prediction: {folder} has no scheduler_config.json to say it; give eps or v")
    unet = folder / "unet" / "config.json"
    side = reading(lambda: _side(_json(unet).get("sample_size")), unet)
    scale = reading(lambda: _positive("scaling_factor", vae.get("scaling_factor", 0.18215)), folder / "vae/config.json")
    config = recipe(
        net_spec,
        text_spec,
        kind,
        size=side * codec_spec.factor,
        schedule=schedule,
        scale=scale,
        where=folder,
    )
    files = {part: _file_of(folder, part, variant) for part in WEIGHTS}
    if variant is not None and not any(f".{variant}." in path.name for path in files.values()):
        raise ValueError(
            f"--variant: '{variant}' is not in {folder}; there is {', '.join(_variants(folder)) or 'none'}"
        )
    read = {part: read_weights(path, allow_pickle=allow_pickle).tensors for part, path in files.items()}
    specs: dict[str, Spec] = {
        "unet": net_spec,
        "vae": codec_spec,
        "text_encoder": text_spec,
    }
    net, codec, text = (shapes(spec, folder / part / "config.json") for part, spec in specs.items())
    return Parts(
        config=config,
        autoencoder=codec_spec,
        net=collect(read["unet"], {ours: (unet_name(ours),) for ours in net}, net, files["unet"]),
        codec=collect(_newer(read["vae"]), {ours: (autoencoder_name(ours),) for ours in codec}, codec, files["vae"]),
        text=collect(_tower(read["text_encoder"]), _tower_names(text), text, files["text_encoder"]),
    )


def files_of(folder: Path, variant: str | None) -> list[Path]:
    """The files that decide what `read_diffusers` reads: weights and configurations."""
    weights = [_file_of(folder, part, variant) for part in WEIGHTS]
    settings = sorted(folder.glob("*/*config.json"))
    return [*weights, *settings]


def write_diffusers(parts: Parts, folder: Path) -> None:
    """Write a folder that `diffusers.StableDiffusionPipeline.from_pretrained` loads, in the precision of the parts.

    Raises:
        ValueError: the model has what the layout has no place for.
        OSError: the folder cannot be written.
    """
    config = parts.config
    assert isinstance(config.text, ClipSpec)
    generation_of(config.text)
    written = {
        "unet": configs.unet_config(config, parts.autoencoder.factor),
        "vae": configs.autoencoder_config(parts.autoencoder, config),
        "text_encoder": configs.text_config(config.text, parts.text),
    }
    scheduler = scheduler_config(config)
    tensors = {
        "unet": spread(parts.net, {ours: (unet_name(ours),) for ours in parts.net}),
        "vae": _as_linear(spread(parts.codec, {ours: (autoencoder_name(ours),) for ours in parts.codec})),
        "text_encoder": _prefixed(spread(parts.text, _tower_names(parts.text))),
    }
    for part, settings in written.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_json(folder / part / "config.json", settings)
        write_tensors(folder / part / f"{WEIGHTS[part]}.safetensors", tensors[part], {"format": "pt"})
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_tokenizer(folder / "tokenizer", pad=config.text.pad, max_tokens=config.text.max_tokens)
    write_json(folder / INDEX, configs.index(config))


def _check_pipeline(folder: Path) -> None:
    if (folder / INDEX).is_file():
        name = str(_json(folder / INDEX).get("_class_name"))
        if name not in configs.PIPELINES:
            raise BundleError(f"{folder}: a {name}; {SUPPORTED} of {', '.join(configs.PIPELINES)}")


def _file_of(folder: Path, part: str, variant: str | None) -> Path:
    """The weights of a network: of the variant, else without one, else in half precision."""
    for infix in dict.fromkeys((f".{variant}" if variant else "", "", ".fp16")):
        for names, suffix in zip((WEIGHTS, PICKLED), SUFFIXES, strict=True):
            path = folder / part / f"{names[part]}{infix}{suffix}"
            if path.is_file():
                return path
    there = sorted(path.name for path in (folder / part).glob("*") if path.suffix in SUFFIXES)
    found = f"there is {', '.join(there)} (--variant)" if there else "there are no weights"
    raise BundleError(f"{folder / part}: no {WEIGHTS[part]}.safetensors; {found}")


def _variants(folder: Path) -> list[str]:
    stems = (*WEIGHTS.values(), *PICKLED.values())
    names = [path.stem for part in WEIGHTS for path in (folder / part).glob("*") if path.suffix in SUFFIXES]
    return sorted({name.partition(".")[2] for name in names if name.startswith(stems)} - {""})


def _newer(vae: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the autoencoder under the names that diffusers uses now."""
    renamed = {}
    for name, tensor in vae.items():
        head, _, last = name.rpartition(".")
        parent, _, layer = head.rpartition(".")
        old = layer in OLDER and parent.endswith("attentions.0")
        renamed[f"{parent}.{OLDER[layer]}.{last}" if old else name] = tensor
    return renamed


def _as_linear(vae: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The attention's 1x1 convolutions as the linear layers that diffusers has there."""
    return {n: t.flatten(1) if ".attentions.0.to_" in n and t.ndim == 4 else t for n, t in vae.items()}


def _tower(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {name: name.removeprefix(TEXT_PREFIX) for name in text if not name.endswith("position_ids")}
    return {short: text[name] for name, short in names.items()}


def _tower_names(ours: Sequence[str] | Mapping[str, Any]) -> Names:
    return {name: text_names(name) for name in ours}


def _prefixed(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {TEXT_PREFIX + name: tensor for name, tensor in text.items()}


def _side(sample: Any) -> int:
    """Of the latents that the U-Net was trained on; 64 where its configuration does not say."""
    sides = sample if isinstance(sample, list) else [sample]
    if len(set(sides)) != 1:
        raise ValueError(f"sample_size {sample} is no square; give one number")
    return int(_positive("sample_size", sides[0] or 64))


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}; a number above 0 is expected")
    return float(value)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BundleError(f"{path}: no such file; a diffusers folder has it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path}: a mapping is expected in this file")
    return value


def _json_or_empty(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}
