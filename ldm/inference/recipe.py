"""What a picture remembers of how it was drawn: all that decides its pixels, and words for other programs."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ldm.build import Model
from ldm.core.shapes import Image
from ldm.inference.adapters import parse as lora_file
from ldm.inference.pipeline import Request, resolve
from ldm.model_folder import LDM, VOCABULARY
from ldm.samplers.tuned import TUNED

FILES = ("image", "mask", "embedding", "lora", "upscale")  # options that name files which decide pixels
ELSEWHERE = (
    "model",
    "model_given",
    "models",
    "turbo",
    "out",
    "device",
    "offload",
    "need",
    "from_picture",
    "only",
    "expected",
    "allow_pickle",  # which is for the user to say, not for a picture
)  # options of no say in the pixels
# Names by which other programs know the samplers; the rest go by ours.
FIELD = {
    "ancestral": "DDPM", "ddim": "DDIM", "dpm_solver": "DPM++ 2M", "unipc": "UniPC", "heun": "Heun", "euler": "Euler",
    "euler_ancestral": "Euler a",
}  # fmt: skip


def recipes(
    model: Model,
    request: Request,
    images: Image,
    options: argparse.Namespace,
    *,
    dtype: torch.dtype,
    evaluations: float,
) -> list[dict[str, Any]]:
    """One recipe for each picture of `txt2img(model, request, dtype=dtype)`, JSON values only.

    Args:
        model: that drew.
        request: what was drawn.
        images: the pictures.
        options: that asked for it; resolved, they are what draws the picture again.
        dtype: precision of the networks.
        evaluations: of the network, for each picture.
    """
    spec = asdict(resolve(model, request))
    size = {"height": images.shape[-2], "width": images.shape[-1]}
    narrowness = str(dtype).removeprefix("torch.")
    shared = spec | size | {"dtype": narrowness, "evaluations": evaluations} | _steering(request)
    shared |= {"facts": facts(model, request, options), "command": _command(options, spec, size, narrowness)}
    chosen = range(len(request.prompts)) if request.only is None else [request.only]
    return [
        {"prompt": request.prompts[i], "negative": request.negative, "seed": request.seeds[i], "model": model.sha256}
        | {**_place(request, i), **shared, "index": i}
        for i in chosen
    ]


def facts(model: Model, request: Request, options: argparse.Namespace) -> dict[str, Any]:
    """What the pixels depend on beside the options: contents of files, versions, the machine's arithmetic."""
    device = next(model.denoise.parameters()).device.type
    name = Path(options.model).stem if model.folder is None else model.folder.name
    found: dict[str, Any] = {"model": model.sha256, "model name": name}
    if options.model.parent.resolve() != options.models.resolve():  # the user's own; not those of a checkout
        found["model path"] = _without_home(options.model)
    known = options.expected or {}
    if known.get("model") == model.sha256:  # the same model in another place makes the same file
        found.pop("model path", None)
        found |= {name: known[name] for name in ("model name", "model path") if name in known}
    if not options.unspelled:
        found["symbols"] = "spelled"  # emoji of the prompt became words
    found |= {name: _contents(name, getattr(options, name)) for name in FILES if getattr(options, name)}
    found |= {name: used for name, used in _steering(request).items() if name in ("classifier", "weak")}
    if model.folder is not None and resolve(model, request).needs_tables:
        if not (model.folder / TUNED).is_file():
            raise ValueError(
                f"{model.folder / TUNED}: no such file; run scripts/tune_sampler.py, or give --sampler and --spacing"
            )
        found["tables"] = _hash(model.folder / TUNED)
    found["vocabulary"] = None  # remembered, too, where all are read as they were written
    if model.folder is not None and model.vocabulary is not None:
        found["vocabulary"] = _hash(model.folder / VOCABULARY)
    found |= {"ldm": own_version(), "torch": torch.__version__, "device": device}
    return found | ({"threads": torch.get_num_threads()} if device == "cpu" else {})


def parameters(recipe: Mapping[str, Any]) -> str:
    """A recipe in the layout that the common web user interfaces read from the PNG text chunk "parameters"."""
    lines = [str(recipe["prompt"])]
    if recipe["negative"]:
        lines.append(f"Negative prompt: {recipe['negative']}")
    sampler = recipe["sampler"]
    fields = {
        "Steps": recipe["steps"],
        "Sampler": FIELD.get(sampler, sampler),
        "Schedule type": recipe["spacing"],
        "CFG scale": f"{recipe['scale']:g}",
        "Seed": recipe["seed"],
        "Size": f"{recipe['width']}x{recipe['height']}",
        "Model hash": recipe["model"][:10],
        "Model": recipe["facts"]["model name"],
    }
    command = recipe["command"]
    if command.get("image") is not None:
        fields["Denoising strength"] = f"{recipe['strength']:g}"
    if command.get("variation_seed") is not None:
        fields |= {"Variation seed": recipe["to_seed"], "Variation seed strength": f"{recipe['share']:g}"}
    fields["Version"] = f"ldm {recipe['facts']['ldm']}"
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in fields.items()))
    return "\n".join(lines)


def own_version() -> str:
    """Of this package; "unknown" in a checkout that is not installed."""
    try:
        return version("ldm")
    except PackageNotFoundError:
        return "unknown"


def _command(
    options: argparse.Namespace, spec: Mapping[str, Any], size: Mapping[str, int], dtype: str
) -> dict[str, Any]:
    """The options with everything that was left to the model filled in."""
    command = {name: value for name, value in vars(options).items() if name not in ELSEWHERE}
    command |= {name: spec[name] for name in ("steps", "scale", "sampler", "spacing")}
    command["option"] = [f"{key}={value!r}".replace("'", "") for key, value in spec["options"].items()]
    command["guidance"] = [f"{k}={'null' if v is None else v}" for k, v in spec["guidance"].items()]
    command["dtype"] = dtype
    if options.image is None:
        command |= size
    return {name: _plain(value) for name, value in command.items()}


def _plain(value: Any) -> Any:
    """An option as a JSON value."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _contents(name: str, given: Any) -> Any:
    """Hashes of the files that an option names."""
    if isinstance(given, list):
        return [_contents(name, each) for each in given]
    if name == "lora":
        return _hash(lora_file(given)[0])
    return _hash(given / LDM if name == "upscale" else given)


def _place(request: Request, i: int) -> dict[str, Any]:
    """How the picture was started, where that is not from the noise of its seed alone."""
    place: dict[str, Any] = {}
    if (start := request.start) is not None:
        place |= {"strength": start.strength, "vary": start.vary, "resample": start.resample}
    if (blend := request.blend) is not None:
        place["share"] = blend.share[i]
        place |= {} if blend.prompts is None else {"to_prompt": blend.prompts[i]}
        place |= {} if blend.seeds is None else {"to_seed": blend.seeds[i]}
    return place


def _steering(request: Request) -> dict[str, Any]:
    """The other networks that took part."""
    used: dict[str, Any] = {}
    if (towards := request.towards) is not None:
        used |= {"classifier": towards.classifier.sha256, "label": towards.label, "classifier_scale": towards.scale}
    if (away := request.away) is not None:
        used |= {"weak": away.model.sha256, "weak_scale": away.scale}
    return used


def _quoted(value: str) -> str:
    """As those programs write a value: JSON where it holds what separates values."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",:\n") else value


def _without_home(path: Path) -> str:
    """A path as it was typed, where the shell may have put the user's name into it."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without one, as in some containers
        return str(path)
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _hash(path: Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
