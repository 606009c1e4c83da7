"""Draw a picture of this program again, bit for bit, from what it remembers."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PilImage

from ldm.build import Model
from ldm.inference.pipeline import Request
from ldm.inference.recipe import ELSEWHERE, FILES, facts
from ldm.model_folder import LDM

PATHS = ("image", "mask", "weak", "classifier", "upscale", "embedding")  # options that are paths
OF_FOLDERS = (LDM, "model_index.json")  # what is in a model folder, and in one of diffusers
OF_MODEL = ("tables", "vocabulary")  # files in the model's folder
WORDS = ("prompt", "negative", "sampler", "spacing", "dtype")  # options that are text, if they are given
NUMBERS = ("seed", "count", "steps", "height", "width", "scale", "batch")
ROUNDING = ("ldm", "torch", "device", "threads")  # other ones may give other last bits


def remembered(path: Path, models: Path) -> dict[str, Any]:
    """The options that draw the picture in `path` again, to be the defaults of the command line.

    Args:
        path: a PNG of this program.
        models: folder in which its model is looked for by name, if it is not where it was.

    Raises:
        ValueError: no such file, no PNG of this program, or one from before pictures remembered all of it.
    """
    recipe = _recipe(path)
    options, known = recipe["command"], recipe["facts"]
    options = {name: value for name, value in options.items() if name not in ELSEWHERE}
    options = {name: _paths(value) if name in PATHS else value for name, value in options.items()}
    for name in ("image", "mask"):
        if options.get(name) and not options[name].is_file():
            options[name] = path.parent / options[name].name  # it may have moved with the picture
    if options.get("upscale") and not options["upscale"].is_dir():
        options["upscale"] = models / options["upscale"].name  # the shipped one, of a checkout elsewhere
    folders = [_with_home(known[name]) for name in ("model path",) if name in known]
    folders += [models / known["model name"]] if known["model name"] else []
    expected = {**known, "seed": options["seed"], "count": options["count"], "picture": str(path)}
    there = [folder for folder in folders if folder.is_file() or any((folder / name).is_file() for name in OF_FOLDERS)]
    if there:
        options["model"] = there[0]
    before = {} if "vocabulary" in known else {"literal": True}  # drawn when every phrase was read as it is
    before |= {} if "symbols" in known else {"unspelled": True}  # and every emoji
    return options | before | {"only": recipe["index"], "expected": expected}


def adjust(options: argparse.Namespace) -> None:
    """Where another seed or count was asked for than the picture has, draw all pictures that are asked for."""
    expected = options.expected
    if options.seed != expected["seed"] or options.count != expected["count"]:
        options.only = None
        options.count = 1 if options.count == expected["count"] else options.count
    if "threads" in expected and options.device in ("auto", "cpu"):
        torch.set_num_threads(expected["threads"])


@contextmanager
def named(options: argparse.Namespace) -> Iterator[None]:
    """Let a refusal of how a picture is to be computed name the picture that asked for it, and the way round.

    Raises:
        ValueError: the refusal.
    """
    try:
        yield
    except ValueError as error:
        if options.expected is None:
            raise
        around = "--attention auto --no-compile draws it with other last bits"
        raise ValueError(f"{options.expected['picture']}: {error}; {around}") from error


def check(options: argparse.Namespace, model: Model, request: Request) -> None:
    """Compare what there is with what the picture was drawn with; differences of rounding alone are only told.

    Raises:
        ValueError: another model, or other pictures, networks or tables than it was drawn with.
    """
    known, found = options.expected, facts(model, request, options)
    if found["model"] != known["model"]:
        names = [f"'{each['model name']}' ({each['model'][:10]})" for each in (known, found)]
        message = f"{known['picture']}: drawn by the model {names[0]}, and this is {names[1]}"
        if options.model_given:
            sys.stderr.write(f"warning: {message}; the picture will be another\n")
        else:
            raise ValueError(f"{message}; give the first with --model")
    for name in (*FILES, "classifier", "weak", *OF_MODEL):
        if found.get(name) != known.get(name) and not (name in OF_MODEL and options.model_given):
            raise ValueError(f"{known['picture']}: its {name} was another than there is now (other content)")
    other = [f"{name} {known[name]}, now {found.get(name)}" for name in ROUNDING if known.get(name) != found.get(name)]
    if other:
        sys.stderr.write(f"warning: last bits may differ: it was drawn with {'; '.join(other)}\n")


def _with_home(path: str) -> Path:
    if not path.startswith("~/"):
        return Path(path)
    try:
        return Path.home() / path[2:]
    except RuntimeError:  # a user without one, as in some containers
        return Path(path)


def _paths(value: Any) -> Any:
    if isinstance(value, list):
        return [_paths(each) for each in value]
    return Path(value) if value else value


def _recipe(path: Path) -> dict[str, Any]:
    try:
        with PilImage.open(path) as opened:
            opened.load()
            text = getattr(opened, "text", {}).get("ldm")
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise ValueError(f"--from-picture: {path} cannot be read: {error}") from error
    if text is None:
        raise ValueError(f"--from-picture: {path} does not say how it was drawn; give a PNG of this program")
    try:
        recipe = json.loads(text)
        whole = {"command", "facts", "index"} <= recipe.keys() and {"seed", "count"} <= recipe["command"].keys()
        if whole:
            _check_kinds(recipe)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"--from-picture: {path}: its recipe is damaged ({error})") from error
    if "upscaled by" in recipe:
        raise ValueError(
            f"--from-picture: {path} was enlarged by scripts/upscale.py, which makes it again the same way"
        )
    if not whole:
        raise ValueError(
            f"--from-picture: {path} is of an older version, which did not keep all that decides a picture"
        )
    return recipe


def _check_kinds(recipe: dict[str, Any]) -> None:
    """Refuse what this program did not write.

    Raises:
        TypeError, KeyError, AttributeError: a value is of another kind, or missing.
    """
    command, kinds = recipe["command"], dict.fromkeys(WORDS, str) | dict.fromkeys(NUMBERS, int | float)
    known = recipe["facts"]
    known["model name"].strip(), known["model"].strip(), known.get("model path", "").strip()
    for name, value in command.items():
        plain = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | int | float | None) for one in plain):
            raise TypeError(f"{name} is {type(value).__name__}")
        if value is not None and not isinstance(value, kinds.get(name, object)):
            raise TypeError(f"{name} is {value!r}")
    if any(not isinstance(command[name], int) for name in ("seed", "count")):
        raise TypeError("seed and count are whole numbers")
