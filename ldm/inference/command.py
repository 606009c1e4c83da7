"""What `scripts/txt2img.py` does with its options: check them, draw, save."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch

from ldm.build import load_model
from ldm.core.images import save_png
from ldm.inference.pipeline import Request, resolve, txt2img
from ldm.process.grid import Spacing
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
    spacings = (*get_args(Spacing), "tuned")
    if options.spacing is not None and options.spacing not in spacings:
        raise ValueError(f"--spacing: '{options.spacing}' is unknown; use {', '.join(spacings)}")
    options.out.mkdir(parents=True, exist_ok=True)
    if not os.access(options.out, os.W_OK):
        raise PermissionError(f"--out: no permission to write into {options.out}")
    model = load_model(options.model).to(pick_device(options.device))
    cut = model.text.cut(options.prompt)
    if cut:
        shown = cut if len(cut) <= 200 else f"{cut[:200]} ..."
        sys.stderr.write(f"warning: the prompt is too long for this model; not read: {shown}\n")
    request = Request(
        prompts=(options.prompt,) * options.count,
        seeds=tuple(range(options.seed, options.seed + options.count)),
        negative=options.negative,
        steps=options.steps,
        scale=options.scale,
        sampler=options.sampler,
        options=sampler_options(options.option) if options.option else None,
        spacing=options.spacing,
        height=options.height,
        width=options.width,
        batch=options.batch,
    )
    images = txt2img(model, request, dtype=getattr(torch, options.dtype), on_step=show_progress)
    spec = resolve(model, request)
    paths = []
    for seed, image in zip(request.seeds, images, strict=True):
        recipe = {"prompt": options.prompt, "negative": options.negative, "seed": seed, "model": model.sha256}
        recipe |= asdict(spec) | {"height": image.shape[-2], "width": image.shape[-1], "dtype": options.dtype}
        path = options.out / f"{slug(options.prompt)}-{seed}.png"
        save_png(image, path, recipe)
        paths.append(path)
    return paths


def sampler_options(given: Sequence[str]) -> dict[str, float | str]:
    """KEY=VALUE words as options of a sampler; a value that reads as a number is one.

    Raises:
        ValueError: a word without "=".
    """
    found: dict[str, float | str] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--option: '{word}' is not KEY=VALUE, e.g. eta=1")
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


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else MPS, else the CPU.

    Raises:
        ValueError: unknown, or not on this machine.
    """
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found()))
    kind = name.partition(":")[0]
    if kind not in there or not there[kind]():
        found = ", ".join(kind for kind, found in there.items() if found())
        raise ValueError(f"--device: '{name}' is not on this machine; there is {found}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: '{name}' cannot be used ({reason}); try '{kind}'") from error


def slug(prompt: str) -> str:
    """A file name from a prompt: letters and digits of any script, at most 60 bytes."""
    words = "".join(c if c.isalnum() else " " for c in prompt).split()
    name = "-".join(words).encode()[:60].decode(errors="ignore").strip("-")
    return name or "picture"
