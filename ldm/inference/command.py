"""What `scripts/txt2img.py` does with its options: check them, draw, save."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch

from ldm.build import Model, load_model
from ldm.core.config_io import from_dict, to_dict
from ldm.core.device import pick_device
from ldm.core.images import save_png
from ldm.core.precision import AUTO, narrow
from ldm.denoiser import counted
from ldm.guidance.spec import GuidanceSpec
from ldm.inference.classified import ClassGuidance, load_guidance
from ldm.inference.pipeline import Request, resolve, txt2img
from ldm.inference.weaker import WeakModel, load_weak
from ldm.process.grid import Spacing, TunedSpacing
from ldm.samplers.loop import Step

LARGEST_SEED = 2**63 - 1


def draw(options: argparse.Namespace) -> list[Path]:
    """Draw what the options ask for; returns the paths of the PNGs.

    Raises:
        ValueError: an option is not possible; the message names it and says what is.
        OSError: the output folder cannot be written.
    """
    if options.count < 1:
        raise ValueError(f"--count: {options.count}; at least 1 picture is drawn")
    if not 0 <= options.seed <= LARGEST_SEED - options.count:
        raise ValueError(f"--seed: {options.seed} is outside 0 to 2^63 - 1")
    spacings = (*get_args(Spacing), *get_args(TunedSpacing))
    if options.spacing is not None and options.spacing not in spacings:
        raise ValueError(f"--spacing: '{options.spacing}' is unknown; use {', '.join(spacings)}")
    options.out.mkdir(parents=True, exist_ok=True)
    if not os.access(options.out, os.W_OK):
        raise PermissionError(f"--out: no permission to write into {options.out}")
    device = pick_device(options.device)
    model = load_model(options.model).to(device)
    cut = model.text.cut(options.prompt)
    if cut:
        shown = cut if len(cut) <= 200 else f"{cut[:200]} ..."
        sys.stderr.write(f"warning: the prompt is too long for this model; not read: {shown}\n")
    towards, away = class_guidance(options, model), weak_model(options, model)
    request = Request(
        prompts=(options.prompt,) * options.count,
        seeds=tuple(range(options.seed, options.seed + options.count)),
        negative=options.negative,
        steps=options.steps,
        scale=options.scale,
        sampler=options.sampler,
        options=sampler_options(options.option) if options.option else None,
        spacing=options.spacing,
        guidance=guidance_spec(options.guidance, model) if options.guidance else None,
        height=options.height,
        width=options.width,
        towards=towards,
        away=away,
        batch=options.batch,
    )
    dtype = narrow(device) if options.dtype == AUTO else getattr(torch, options.dtype)
    with counted(model.denoise) as evaluations:
        images = txt2img(model, request, dtype=dtype, on_step=show_progress)
    each = evaluations.rows / options.count
    spec = resolve(model, request)
    paths = []
    for seed, image in zip(request.seeds, images, strict=True):
        recipe = {"prompt": options.prompt, "negative": options.negative, "seed": seed, "model": model.sha256}
        recipe |= asdict(spec) | {"height": image.shape[-2], "width": image.shape[-1]}
        recipe |= {"dtype": str(dtype).removeprefix("torch."), "evaluations": each}
        if towards is not None:
            recipe |= {
                "classifier": towards.classifier.sha256,
                "label": towards.label,
                "classifier_scale": towards.scale,
            }
        if away is not None:
            recipe |= {"weak": away.model.sha256, "weak_scale": away.scale}
        path = options.out / f"{slug(options.prompt)}-{seed}.png"
        save_png(image, path, recipe)
        paths.append(path)
    sys.stderr.write(f"{each:g} network evaluations for each picture\n")
    return paths


def class_guidance(options: argparse.Namespace, model: Model) -> ClassGuidance | None:
    """What --classifier, --label and --classifier-scale ask for.

    Raises:
        ValueError: one of them without the others, or the classifier cannot be used with this model.
    """
    if (options.classifier is None) != (options.label is None):
        raise ValueError("--classifier, --label: give both, the classifier's file and one of its classes")
    if options.classifier is None:
        if options.classifier_scale is not None:
            raise ValueError("--classifier-scale: there is no classifier to scale; give --classifier and --label")
        return None
    scale = 1.0 if options.classifier_scale is None else options.classifier_scale
    return load_guidance(options.classifier, model, options.label, scale)


def weak_model(options: argparse.Namespace, model: Model) -> WeakModel | None:
    """What --weak and --weak-scale ask for.

    Raises:
        ValueError: a scale without a model, or one that cannot be used with this model.
    """
    if options.weak is None:
        if options.weak_scale is not None:
            raise ValueError("--weak-scale: there is no weak model to move away from; give --weak")
        return None
    return load_weak(options.weak, model, 2.0 if options.weak_scale is None else options.weak_scale)


def guidance_spec(given: Sequence[str], model: Model) -> GuidanceSpec:
    """KEY=VALUE words as changes of the model's own guidance.

    Raises:
        ValueError: a word without "=", an unknown key, or a value that is not possible.
    """
    known = to_dict(model.config.sample.guidance)
    return from_dict(GuidanceSpec, known | key_values(given, "--guidance", "lo=-4"), "--guidance")


def sampler_options(given: Sequence[str]) -> dict[str, float | str]:
    """KEY=VALUE words as options of a sampler.

    Raises:
        ValueError: a word without "=".
    """
    return key_values(given, "--option", "eta=1")


def key_values(given: Sequence[str], option: str, example: str) -> dict[str, float | str]:
    """KEY=VALUE words; a value that reads as a number is one.

    Raises:
        ValueError: a word without "=".
    """
    found: dict[str, float | str] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{option}: '{word}' is not KEY=VALUE, e.g. {example}")
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = value
    return found


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
