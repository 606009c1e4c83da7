"""What `scripts/txt2img.py` does with its options: check them, draw, save."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ldm.build import Model
from ldm.convert.opening import open_model
from ldm.core.device import pick_device
from ldm.core.images import save_png
from ldm.denoiser import counted
from ldm.inference.adapters import add_loras, add_words, unused
from ldm.inference.need import advised, estimate, worth_telling
from ldm.inference.options import check_options, dtype_of, placement_of, request_of
from ldm.inference.pipeline import txt2img
from ldm.inference.placing import Placement, placed
from ldm.inference.recipe import recipes
from ldm.inference.upscale import Upscale, load_upscaler, upscale
from ldm.samplers.loop import Step

SHOWN = 200  # letters of a prompt in a message


def draw(options: argparse.Namespace) -> list[Path]:
    """Draw what the options ask for; returns the paths of the PNGs.

    Raises:
        ValueError: an option is not possible; the message names it and says what is.
        OSError: the output folder cannot be written.
    """
    check_options(options)
    device = pick_device(options.device)
    dtype = dtype_of(options, device)
    place = placement_of(options, device, dtype)
    model = open_model(
        options.model, prediction=options.prediction, variant=options.variant, allow_pickle=options.allow_pickle
    )
    model, added = adapted(model, options)
    warn_of_cut(model, options.prompt)
    model = ready(model, place, options)
    request = request_of(options, model)
    upscaler = None if options.upscale is None else load_upscaler(options.upscale).to(device)
    weak = [] if request.away is None else [request.away.model.denoise]
    with advised(), counted(model.denoise, *weak) as evaluations:
        images = txt2img(model, request, dtype=dtype, on_step=show_progress)
    each = evaluations.rows / len(images)
    remembered = recipes(model, request, images, dtype=dtype, evaluations=each)
    if upscaler is not None:
        how = Upscale(prompts=request.prompts, seeds=request.seeds, restore=True, batch=options.batch)
        images = upscale(upscaler, images, how, dtype=dtype, on_step=show_progress)
        remembered = [recipe | {"upscaler": upscaler.sha256} for recipe in remembered]
    paths = []
    for image, recipe in zip(images, remembered, strict=True):
        path = options.out / f"{slug(recipe['prompt'])}-{recipe['seed']}.png"
        save_png(image, path, recipe | added)
        paths.append(path)
    sys.stderr.write(f"{each:g} network evaluations for each picture\n")
    return paths


def ready(model: Model, how: Placement, options: argparse.Namespace) -> Model:
    """`model` where and how it is to be computed, after its need of memory was told if that is large."""
    size = model.config.sample.size
    drawn = {
        "batch": min(options.count, options.batch),
        "height": options.height or size,
        "width": options.width or size,
    }
    if worth_telling(model, **drawn):
        sys.stderr.write(f"{estimate(model, how, **drawn)}\n")
    with advised():
        return placed(model, how)


def adapted(model: Model, options: argparse.Namespace) -> tuple[Model, dict[str, Any]]:
    """`model` with what --lora and --embedding name, and what a picture remembers of it.

    Raises:
        ValueError: a file cannot be used with this model.
    """
    (model, loras), words = add_loras(model, options.lora), add_words(model, options.embedding)
    for line in unused(loras, words, options.prompt):
        sys.stderr.write(f"warning: {line}\n")
    used: dict[str, Any] = {"loras": [f"{one.path}:{one.scale:g}" for one in loras]} if loras else {}
    return model, used | ({"embeddings": list(map(str, options.embedding))} if words else {})


def warn_of_cut(model: Model, prompt: str) -> None:
    """Say which words of the prompt the model does not read."""
    cut = model.text.cut(prompt)
    if cut:
        shown = cut if len(cut) <= SHOWN else f"{cut[:SHOWN]} ..."
        sys.stderr.write(f"warning: the prompt is too long for this model; not read: {shown}\n")


def show_progress(step: Step) -> None:
    """One line on a terminal that counts the steps."""
    if sys.stderr.isatty():
        end = "\n" if step.index + 1 == step.steps else ""
        sys.stderr.write(f"\rstep {step.index + 1}/{step.steps}{end}")
        sys.stderr.flush()


def slug(prompt: str) -> str:
    """A file name from a prompt: letters and digits of any script, at most 60 bytes."""
    words = "".join(c if c.isalnum() else " " for c in prompt).split()
    name = "-".join(words).encode()[:60].decode(errors="ignore").strip("-")
    return name or "picture"
