"""The options of `scripts/txt2img.py` as a value: which model, what to draw."""

import argparse
import os
from collections.abc import Sequence
from typing import Any, get_args

import torch

from ldm.build import Model
from ldm.core.config_io import from_dict, to_dict
from ldm.core.precision import AUTO, narrow
from ldm.guidance.spec import GuidanceSpec
from ldm.inference.classified import ClassGuidance, load_guidance
from ldm.inference.pipeline import LARGEST_SEED, Request
from ldm.inference.placing import Placement
from ldm.inference.sources import blend_of, check_sources, start_of
from ldm.inference.weaker import WeakModel, load_weak
from ldm.process.grid import Spacing, TunedSpacing

MOST = 100_000  # pictures of one call: each has a line and a file
CONSTANTS = {"true": True, "false": False, "null": None}


def check_options(options: argparse.Namespace) -> None:
    """Refuse what can be refused before a model is loaded, and make the output folder.

    Raises:
        ValueError: an option is not possible; the message names it and says what is.
        OSError: the output folder cannot be written.
    """
    if not 1 <= options.count <= MOST:
        raise ValueError(f"--count: {options.count}; 1 to {MOST} pictures are drawn at a time")
    if not 0 <= options.seed <= LARGEST_SEED - options.count:
        raise ValueError(f"--seed: {options.seed} is outside 0 to 2^63 - 1")
    check_spacing(options.spacing)
    check_sources(options)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out: {options.out} is no folder")
    options.out.mkdir(parents=True, exist_ok=True)
    if not os.access(options.out, os.W_OK):
        raise PermissionError(f"--out: no permission to write into {options.out}")


def check_spacing(name: str | None) -> None:
    """Refuse a path that nobody knows; None is the model's own.

    Raises:
        ValueError: the message lists the known.
    """
    known = (*get_args(Spacing), *get_args(TunedSpacing))
    if name is not None and name not in known:
        raise ValueError(f"--spacing: '{name}' is unknown; use {', '.join(known)}")


def request_of(options: argparse.Namespace, model: Model) -> Request:
    """What the options ask `model` to draw.

    Raises:
        ValueError: an option is not possible with this model.
    """
    start, blend = start_of(options, model), blend_of(options)
    count = options.count if blend is None else len(blend.share)
    moving = blend is None  # else all start at one seed, and differ by how far they are from it
    return Request(
        prompts=(options.prompt,) * count,
        seeds=tuple(options.seed + moving * i for i in range(count)),
        negative=options.negative,
        steps=options.steps,
        scale=options.scale,
        sampler=options.sampler,
        options=None if options.option is None else sampler_options(options.option),
        spacing=options.spacing,
        guidance=None if options.guidance is None else guidance_spec(options.guidance, model),
        height=options.height if start is None else None,
        width=options.width if start is None else None,
        towards=class_guidance(options, model),
        away=weak_model(options, model),
        batch=options.batch,
        start=start,
        blend=blend,
        only=None if options.upscale is not None else options.only,  # the tiles of all pictures are enlarged together
    )


def dtype_of(options: argparse.Namespace, device: torch.device) -> torch.dtype:
    """The precision of the networks that the options ask for on this device."""
    return narrow(device) if options.dtype == AUTO else getattr(torch, options.dtype)


def placement_of(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Placement:
    """Where and how the options want the model to be computed.

    Raises:
        ValueError: an option cannot be met on this machine.
    """
    return Placement(
        device=device,
        dtype=dtype,
        attention=options.attention,
        tile=options.tile,
        offload=options.offload,
        compile=options.compile,
    )


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
    scale = 2.0 if options.weak_scale is None else options.weak_scale
    how = {"prediction": options.prediction, "allow_pickle": options.allow_pickle}
    return load_weak(options.weak, model, scale, **how)


def guidance_spec(given: Sequence[str], model: Model) -> GuidanceSpec:
    """KEY=VALUE words as changes of the model's own guidance.

    Raises:
        ValueError: a word without "=", an unknown key, or a value that is not possible.
    """
    known = to_dict(model.config.sample.guidance)
    return from_dict(GuidanceSpec, known | key_values(given, "--guidance", "lo=-4"), "--guidance")


def sampler_options(given: Sequence[str]) -> dict[str, float | str | bool]:
    """KEY=VALUE words as options of a sampler.

    Raises:
        ValueError: a word without "=".
    """
    return key_values(given, "--option", "eta=1")


def key_values(given: Sequence[str], option: str, example: str) -> dict[str, Any]:
    """KEY=VALUE words; a value that reads as a number is one, "true", "false" and "null" are what they say.

    Raises:
        ValueError: a word without "=".
    """
    found: dict[str, float | str | bool | None] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{option}: '{word}' is not KEY=VALUE, e.g. {example}")
        try:
            found[key] = CONSTANTS[value] if value in CONSTANTS else float(value)
        except ValueError:
            found[key] = value
    return found
