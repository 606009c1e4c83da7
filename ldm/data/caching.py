"""Encode a data set once, shard by shard: what is finished stays when a run is killed, and processes share the work.

A cache is a folder, named by a hash of everything it depends on, of shards that each hold the pictures of one part and
all that belongs to them, and, once all of them are there, of an index.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm.core.bundle import write_atomically
from ldm.core.distributed import World
from ldm.data.folder import report
from ldm.data.parts import Parts
from ldm.data.record import check_share
from ldm.data.shards import FORMAT, Encoders, encode, header, shard_path, write

INDEX = "index.json"


def build(
    parts: Parts, encoders: Encoders, directory: Path, world: World, progress: Callable[[Any], Any]
) -> tuple[Path, dict[str, Any]]:
    """Bring a cache up to date: what is missing or damaged of it is made, by each process its part.

    Returns:
        The folder of the cache, and its index: "rows", "bytes" and "shape" of every shard, and "left_out", a line for
        each picture that could not be read.

    Raises:
        ValueError: an encoder gave a value that is not finite, or too many pictures cannot be read.
        OSError: the directory cannot be written, or another process of the run is gone.
    """
    folder, hashes, path = named(parts, encoders, directory)
    index = _read_index(folder)
    todo = [n for n in range(len(parts)) if not _intact(folder, n, index)] if world.first else []
    todo, complete = world.told((todo, index is not None and not todo))
    if not complete:
        if world.first:
            if index is not None:
                report("%s: %d shards are missing or damaged; they are made again", folder, len(todo))
            else:
                tell_of_others(directory, hashes)
        folder.mkdir(parents=True, exist_ok=True)
        for n in progress(todo[world.rank :: world.size]):
            write(shard_path(folder, n), encode(parts.part(n), encoders))
        world.wait()
        if world.first:
            write_atomically(folder / INDEX, json.dumps(_index(folder, len(parts), hashes)).encode())
        world.wait()
        index = _read_index(folder)
    if index is None:
        raise OSError(f"{folder}: not seen by process {world.rank}; the cache must be on a disk that all share")
    check_share(path, sum(index["rows"]), index["left_out"])
    return folder, index


def named(parts: Parts, encoders: Encoders, directory: Path) -> tuple[Path, dict[str, str], str]:
    """The folder of a cache, the hashes of everything it depends on, and the path of its pictures."""
    key = {"encoders": list(encoders.key), **parts.key()}
    hashes = {name: _hash(value) for name, value in key.items()}
    return directory / f"latents-{_hash(hashes)}", hashes, key["path"]


def _index(folder: Path, parts: int, hashes: dict[str, str]) -> dict[str, Any]:
    index: dict[str, Any] = {"format": FORMAT, **hashes, "rows": [], "bytes": [], "shape": [], "left_out": []}
    for n in range(parts):
        path = shard_path(folder, n)
        found = header(path)
        if found is None:
            raise OSError(f"{path}: gone while the cache was made; run the same command again")
        index["rows"].append(found.rows)
        index["shape"].append(list(found.shape))
        index["left_out"] += found.left_out
        index["bytes"].append(path.stat().st_size)
    return index


def _read_index(folder: Path) -> dict[str, Any] | None:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return index if index.get("format") == FORMAT else None


def _intact(folder: Path, number: int, index: dict[str, Any] | None) -> bool:
    """Whether a shard is there and whole: of the size in the index or, without one, with a sound header."""
    path = shard_path(folder, number)
    if index is None:
        return header(path) is not None
    return path.is_file() and bool(path.stat().st_size == index["bytes"][number])


WHAT = {"encoders": "encoders, words or precision", "settings": "settings", "pictures": "pictures"}  # for people


def tell_of_others(directory: Path, hashes: dict[str, str]) -> None:
    """Say why a cache is made, where one might have been expected to be there."""
    for other in sorted(directory.glob(f"latents-*/{INDEX}")):
        old = _read_index(other.parent) or {}
        changed = [name for name in ("encoders", "settings", "pictures") if old.get(name) != hashes[name]]
        if old.get("path") == hashes["path"]:
            what = " and ".join(WHAT[name] for name in changed)
            report("%s: made for other %s; another cache is made beside it", other.parent, what)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
