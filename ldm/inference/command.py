"""What `scripts/txt2img.py` does with its options: check them, draw, save."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm.build import Model
from ldm.convert.opening import open_model
from ldm.core.device import pick_device
from ldm.core.images import save_png
from ldm.denoiser import counted
from ldm.inference import redraw
from ldm.inference.adapters import add_loras, add_words, unused
from ldm.inference.conditions import needed_chunks, not_read, taken_for
from ldm.inference.need import advised, drawn_together, estimate, worth_telling
from ldm.inference.options import check_options, dtype_of, placement_of, request_of
from ldm.inference.pipeline import Request, checked_size, parts, resolve, txt2img
from ldm.inference.placing import Placement, placed
from ldm.inference.recipe import parameters, recipes
from ldm.inference.symbols import foreign, spelled_out
from ldm.inference.upscale import Upscale, load_upscaler, tiles_of, upscale
from ldm.nets.guess import SEPARATOR
from ldm.samplers.loop import OnStep, Step

SHOWN = 200  # letters of a prompt in a message


def draw(options: argparse.Namespace) -> list[Path]:
    """Draw what the options ask for; returns the paths of the PNGs.

    Raises:
        ValueError: an option is not possible; the message names it and says what is.
        OSError: the output folder cannot be written.
    """
    if options.expected is not None:
        redraw.adjust(options)
    check_options(options)
    device = pick_device(options.device)
    dtype = dtype_of(options, device)
    with redraw.named(options):
        place = placement_of(options, device, dtype)
    model = open_model(
        options.model, prediction=options.prediction, variant=options.variant, allow_pickle=options.allow_pickle
    )
    model, added = adapted(model, options)
    if options.literal:
        model = model.as_written()
    notices = [*spell_symbols(model, options), *settle_style(model, options)]
    for prompt in (options.prompt, options.negative, options.to_prompt):
        notices += cut_words(model, prompt or "")
    for prompt in (options.prompt, options.to_prompt):
        notices += taken_otherwise(model, prompt or "")
    request = request_of(options, model)
    if options.negative and resolve(model, request).scale == 1:
        notices.append("--negative: it has no effect without guidance; give --scale above 1")
    upscaler = None if options.upscale is None else load_upscaler(options.upscale)
    tell_need(model, place, options, request, upscaler)
    with advised():
        model, request = placed(model, place), request.on(device)
        upscaler = None if upscaler is None else upscaler.to(device)
    if options.expected is not None:
        redraw.check(options, model, request)
    weak = [] if request.away is None else [request.away.model.denoise]
    with advised(), counted(model.denoise, *weak) as evaluations:
        images = txt2img(model, request, dtype=dtype, on_step=telling(notices))
    each = evaluations.rows / sum(len(part.prompts) for part, _ in parts(model, request))
    told = [recipe | added for recipe in recipes(model, request, images, options, dtype=dtype, evaluations=each)]
    if upscaler is not None:
        how = Upscale(prompts=request.prompts, seeds=request.seeds, restore=True, batch=options.batch)
        images = upscale(upscaler, images, how, dtype=dtype, on_step=show_progress)
        told = [recipe | {"upscaler": upscaler.sha256} for recipe in told]
    paths = []
    for image, recipe in zip(images, told, strict=True):
        if options.only not in (None, recipe["index"]):
            continue
        path = options.out / file_name(recipe)
        save_png(image, path, recipe, {"parameters": parameters(recipe)})
        paths.append(path)
    sys.stderr.write(f"{each:g} network evaluations for each picture\n")
    return paths


def tell_need(
    model: Model, how: Placement, options: argparse.Namespace, request: Request, upscaler: Model | None
) -> None:
    """Say how much memory it takes, if that is much or asked for.

    Raises:
        ValueError: the model cannot draw this size.
    """
    if request.start is None:
        checked_size(request, resolve(model, request), model.unit)  # refuses what cannot be drawn
    drawn = drawn_together(model, request)
    if not (options.need or worth_telling(model, **drawn)):
        return
    need = estimate(
        model,
        how,
        **drawn,
        chunks=needed_chunks(model, options.prompt, options.negative, options.to_prompt or ""),
        weak=None if request.away is None else request.away.model,
        upscaler=upscaler,
        tiles=1 if upscaler is None else _tiles(upscaler, request, drawn),
        classifier=None if request.towards is None else request.towards.classifier.net,
    )
    sys.stderr.write(f"{need}\n")


def _tiles(upscaler: Model, request: Request, drawn: Mapping[str, int]) -> int:
    """How many tiles of all pictures are enlarged together."""
    of_each = len(tiles_of(upscaler, drawn["height"], drawn["width"]))
    return min(request.batch, of_each * len(request.prompts))


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


def telling(notices: Iterable[str]) -> OnStep:
    """Progress, after what is to be said of the prompt: once a picture is on its way, and not before a refusal."""
    waiting = list(notices)

    def on_step(step: Step) -> None:
        while waiting:
            sys.stderr.write(f"{waiting.pop(0)}\n")
        show_progress(step)

    return on_step


def spell_symbols(model: Model, options: argparse.Namespace) -> Iterator[str]:
    """Put the words for emoji into the prompts of a model that knows things by their names; says which."""
    if model.vocabulary is None or options.unspelled:
        return
    for name in ("prompt", "negative", "to_prompt"):
        prompt = getattr(options, name)
        words = spelled_out(prompt, model.text.knows) if prompt else prompt
        if words != prompt:
            setattr(options, name, words)
            yield f"'{shown(prompt)}' is read as '{shown(words)}'"


def settle_style(model: Model, options: argparse.Namespace) -> Iterator[str]:
    """Let prompts that only name a thing say how to draw it: as --style says, or as the model does it best; says so.

    A model is left alone that was told by a LoRA or a word how to draw.
    """
    taught = options.lora or options.embedding
    style = ("" if taught else model.config.sample.style) if options.style is None else options.style
    for name in ("prompt", "to_prompt"):
        prompt = getattr(options, name)
        if prompt and prompt.strip() and style and SEPARATOR not in prompt:
            setattr(options, name, f"{prompt.strip()}{SEPARATOR} {style}")
            if options.style is None:
                yield f"drawn as '{shown(prompt.strip())}{SEPARATOR} {style}'; --style '' draws the prompt as it is"
    options.style = ""  # it is settled, and part of what the picture remembers


def shown(text: str) -> str:
    """A text on one line, without what would steer a terminal, and shortened: for a message."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def cut_words(model: Model, prompt: str) -> Iterator[str]:
    """Which words of the prompt the model does not read."""
    cut = not_read(model, prompt)
    if cut:
        yield f"warning: the prompt is too long for this model; not read: {shown(cut)}"


def taken_otherwise(model: Model, prompt: str) -> Iterator[str]:
    """What a subject is taken for that the model never met, or never in the style that is asked for."""
    name, manner = taken_for(model, prompt)
    subject = shown(prompt.partition(SEPARATOR)[0].strip())
    if name is not None and foreign(subject):
        yield f"'{subject}': this model reads English alone; it is drawn as '{name}', which may be something else"
    elif name is not None:
        yield f"'{subject}' is new to this model and drawn as '{name}', the nearest; --literal: as it is"
    if manner is not None and SEPARATOR in prompt:
        yield f"'{name or subject}' is drawn as it is known, in '{manner}'; --literal: as it is"


def show_progress(step: Step) -> None:
    """One line on a terminal that counts the steps."""
    if sys.stderr.isatty():
        end = "\n" if step.index + 1 == step.steps else ""
        sys.stderr.write(f"\rstep {step.index + 1}/{step.steps}{end}")
        sys.stderr.flush()


def file_name(recipe: Mapping[str, Any]) -> str:
    """Of a picture: its prompt and seed, and its number where several have the same seed."""
    number = f"-{recipe['index']:03}" if "share" in recipe else ""
    return f"{slug(recipe['prompt'])}-{recipe['seed']}{number}.png"


def slug(prompt: str) -> str:
    """A file name from a prompt: letters and digits of any script, at most 60 bytes."""
    words = "".join(c if c.isalnum() else " " for c in prompt).split()
    name = "-".join(words).encode()[:60].decode(errors="ignore").strip("-")
    return name or "picture"
