"""Write scenes as a data set: an image folder with captions and facts, in the layout that users' own data has."""

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from ldm.core.rng import fold
from ldm.data.emoji.prepare import credits_text
from ldm.data.emoji.styles import STYLES
from ldm.data.scenes.art import Art
from ldm.data.scenes.captions import caption
from ldm.data.scenes.scene import SceneSpec, compose

MARKER = "dataset.json"  # says that a folder was written here and may be replaced
PER_FOLDER = 1000  # pictures of one sub-folder
CHUNK = 100  # scenes that a process composes at a time


@dataclass(frozen=True, kw_only=True)
class SceneSet:
    """One split to write.

    Attributes:
        name: of its folder, "train" or "heldout".
        spec: which scenes.
        count: how many.
    """

    name: str
    spec: SceneSpec
    count: int


def prepare(art: Art, sets: Sequence[SceneSet], *, out: Path, seed: int, jobs: int = 1) -> None:
    """Write `out/<name>/metadata.jsonl` with file_name, caption and facts, and the PNG files that it names.

    A set that was written here before is replaced; a run that fails leaves it as it was.

    Args:
        art: all drawings.
        sets: what to write.
        out: folder to write.
        seed: of all scenes; scene n of a split is the same in a set of any length.
        jobs: processes that compose.

    Raises:
        ValueError: `out` holds something else, or cannot be written, or the art has too few things.
    """
    if out.exists() and not (out.is_dir() and ((out / MARKER).exists() or not any(out.iterdir()))):
        raise ValueError(f"out: {out} exists and was not written by this script; give another folder or remove it")
    new, old = out.with_name(out.name + ".partial"), out.with_name(out.name + ".old")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for each in sets:
            _write(art, each, new / each.name, seed, jobs)
        (new / "CREDITS.md").write_text(credits_text([style for style in art.styles if style in STYLES]))
        about = {"seed": seed, "art": art.digest, "sets": {each.name: each.count for each in sets}}
        (new / MARKER).write_text(json.dumps(about) + "\n")
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ValueError(f"out: cannot write {error.filename or out}: {error.strerror}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def row(art: Art, spec: SceneSpec, seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Compose scene `number`, save it under `folder`, and give its line of metadata."""
    scene = compose(art, spec, seed, number)
    name = f"{number // PER_FOLDER:04d}/{number:07d}.png"
    scene.picture.save(folder / name)
    words = random.Random(fold(seed, "caption", spec.split, number))
    return {"file_name": name, "caption": caption(scene.facts, art.things, words), "facts": scene.facts.row()}


def _write(art: Art, scenes: SceneSet, folder: Path, seed: int, jobs: int) -> None:
    for first in range(0, scenes.count, PER_FOLDER):
        (folder / f"{first // PER_FOLDER:04d}").mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for found in _rows(art, scenes, folder, seed, jobs):
            file.write(json.dumps(found) + "\n")


def _rows(art: Art, scenes: SceneSet, folder: Path, seed: int, jobs: int) -> Iterator[dict[str, Any]]:
    numbers = range(scenes.count)
    if jobs == 1:
        yield from (row(art, scenes.spec, seed, number, folder) for number in numbers)
        return
    with ProcessPoolExecutor(jobs, initializer=_begin, initargs=(art,)) as pool:
        work = partial(_row_of_process, scenes.spec, seed)
        yield from pool.map(work, numbers, repeat(folder), chunksize=CHUNK)


_art: Art | None = None  # of a worker process, which is given it once


def _begin(art: Art) -> None:
    global _art
    _art = art


def _row_of_process(spec: SceneSpec, seed: int, number: int, folder: Path) -> dict[str, Any]:
    assert _art is not None
    return row(_art, spec, seed, number, folder)
