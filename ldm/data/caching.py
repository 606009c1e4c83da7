"""Encode a data set once, shard by shard: what is finished stays when a run is killed, and processes share the work.

A cache is a folder, named by a hash of everything it depends on, of safetensors files that each hold the pictures of
one part and all that belongs to them, and of an index. A shard holds, for each of its rows (one view of a picture):

    mean, logvar   of q(z | x), half precision (c, h, w)
    low            for an upscaler, what it reads of small versions of the picture, half precision (k, c, h, w)
    picture        its number in the data set
    caption        which of the shard's captions it has; their states are further tensors, one row for each caption

The logarithm of the variance keeps its precision where a variance in half precision would fall to 0, below 6e-8.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from os import cpu_count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ldm.core.bundle import write_atomically
from ldm.core.distributed import World
from ldm.core.gaussian import Gaussian
from ldm.core.rng import fold
from ldm.core.shapes import Image
from ldm.data.folder import FolderSpec, ImageFolder, Sample, report, showings
from ldm.data.record import Record, check_share
from ldm.data.tar import PIPE, expand, stream_tar

FORMAT = "ldm-latents-1"
INDEX = "index.json"
ROWS = 512  # views in a shard: at the shapes of Stable Diffusion 93 MB, minutes of work at most
ENCODED_AT_ONCE = 64
MEAN, LOGVAR, LOW, CAPTION, PICTURE = "mean", "logvar", "low", "caption", "picture"
Tensors = dict[str, Tensor]
Shown = list[Sample] | str  # the views of a picture, or what is wrong with it


@dataclass(frozen=True)
class Encoders:
    """What fills a cache; `key` changes whenever either would give other numbers.

    Attributes:
        image: pictures (b, 3, h, w) to q(z | x).
        text: captions to their states by name, each of b rows; for an encoder that is being trained its input.
        key: hashes or names of all.
        low: pictures to what an upscaler reads of k small versions of each (b, k, c, h, w); None: not for an upscaler.
    """

    image: Callable[[Image], Gaussian]
    text: Callable[[Sequence[str]], dict[str, Tensor]]
    key: tuple[str, ...]
    low: Callable[[Image], Tensor] | None = None


@runtime_checkable
class Parts(Protocol):
    """A data set cut into parts of one shape each, always in the same way."""

    def __len__(self) -> int: ...

    def key(self) -> dict[str, Any]: ...

    def part(self, number: int) -> Iterator[Shown]: ...


class FolderParts:
    """The pictures of a folder, in order, or by bucket where there are buckets.

    Args:
        folder: the pictures.
        views: of each; with 1, the plain one.
        seed: of the views.
    """

    def __init__(self, folder: ImageFolder, views: int, seed: int):
        self.folder, self.views, self.seed = folder, views, seed
        pictures = max(1, ROWS // views)
        buckets = folder.buckets
        shapes = [torch.nonzero(buckets == bucket).flatten() for bucket in buckets.unique()]
        self._parts = [part for shape in shapes for part in shape.split(pictures)]

    def __len__(self) -> int:
        return len(self._parts)

    def key(self) -> dict[str, Any]:
        """Settings and pictures, by their size and time of change."""
        spec = self.folder.spec
        settings = [spec.size, spec.unit, asdict(spec.variety), self.views, self.seed]
        files = {path: path.stat() for path in {record.path for record in self.folder.records}}
        rows = [
            [str(r.path), str(r.inside or ""), files[r.path].st_size, files[r.path].st_mtime_ns, dict(r.columns)]
            for r in self.folder.records
        ]
        return {"path": spec.path, "settings": settings, "pictures": rows}

    def part(self, number: int) -> Iterator[Shown]:
        """The pictures of a part, decoded a few at a time in threads."""

        def shown(index: int) -> Shown:
            seeds = _seeds(self.views, self.seed, index)
            try:
                return self.folder.showings(index, seeds)
            except ValueError as error:
                return str(error)

        yield from _in_threads(shown, (int(index) for index in self._parts[number]))


class PipeParts:
    """Tar shards that come out of commands: each is read once, from beginning to end, and is one part.

    Args:
        spec: `path` is `pipe:` and a shell command with a range of numbers, e.g. "pipe:curl -s URL/{000..099}.tar".
        views: of each picture; with 1, the plain one.
        seed: of the views.

    Raises:
        ValueError: buckets are asked for, or only some of the pictures.
    """

    def __init__(self, spec: FolderSpec, views: int, seed: int):
        if spec.unit is not None:
            raise ValueError(
                f"{spec.path}: a pipe is read in its own order, without buckets; use shards on disk for them"
            )
        if spec.limit is not None:
            raise ValueError(f"{spec.path}: a pipe is read to its end, so limit cannot be {spec.limit}; leave it out")
        self.spec, self.views, self.seed = spec, views, seed
        self.commands = expand(spec.path.removeprefix(PIPE))

    def __len__(self) -> int:
        return len(self.commands)

    def key(self) -> dict[str, Any]:
        """Settings and commands; what these write is taken to stay the same."""
        settings = [self.spec.size, asdict(self.spec.variety), self.views, self.seed]
        return {"path": self.spec.path, "settings": settings, "pictures": self.commands}

    def part(self, number: int) -> Iterator[Shown]:
        """The pictures of a shard, a few of them in memory at a time."""
        size, faults = self.spec.sizes[0], list[str]()

        def shown(numbered: tuple[int, Record]) -> Shown:
            place, record = numbered
            seeds = _seeds(self.views, self.seed, number, place)
            try:
                return showings(record, size, self.spec, place, seeds)
            except ValueError as error:
                return str(error)

        records = stream_tar(self.commands[number], faults, self.spec.captions != "none")
        yield from _in_threads(shown, enumerate(records))
        yield from faults


def _seeds(views: int, seed: int, *place: int) -> list[int | None]:
    """What decides the views of a picture; None is the plain one."""
    return [None] if views == 1 else [fold(seed, "view", *place, view) for view in range(views)]


def _in_threads(decode: Callable[[Any], Shown], items: Iterator[Any]) -> Iterator[Shown]:
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for chunk in _chunks(items):
            yield from pool.map(decode, chunk)


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
    key = {"encoders": list(encoders.key), **parts.key()}
    hashes = {name: _hash(value) for name, value in key.items()}
    folder = directory / f"latents-{_hash(hashes)}"
    index = _read_index(folder)
    todo = [n for n in range(len(parts)) if not _intact(folder, n, index)] if world.first else []
    todo, complete = world.told((todo, index is not None and not todo))
    if not complete:
        if world.first:
            _tell(directory, folder, hashes, index, len(todo))
        folder.mkdir(parents=True, exist_ok=True)
        for n in progress(todo[world.rank :: world.size]):
            _write(shard_path(folder, n), _encode(parts.part(n), encoders))
        world.wait()
        if world.first:
            write_atomically(folder / INDEX, json.dumps(_index(folder, len(parts), hashes)).encode())
        world.wait()
        index = _read_index(folder)
    if index is None:
        raise OSError(f"{folder}: not seen by process {world.rank}; the cache must be on a disk that all share")
    check_share(key["path"], sum(index["rows"]), index["left_out"])
    return folder, index


def shard_path(folder: Path, number: int) -> Path:
    """The file of shard `number`."""
    return folder / f"shard-{number:06}.safetensors"


def _encode(shown: Iterator[Shown], encoders: Encoders) -> tuple[Tensors, list[str]]:
    """The tensors of a shard, and a line for each picture that could not be read."""
    left_out: list[str] = []
    means, logvars, lows, captions, pictures = [], [], list[Tensor](), list[str](), list[int]()
    for samples in _chunks(_readable(shown, left_out)):
        images = torch.stack([s.image for s in samples])
        posterior = encoders.image(images)
        if encoders.low is not None:
            lows.append(encoders.low(images).half().cpu())
        means.append(posterior.mean.half().cpu())
        logvars.append(posterior.var.float().log().half().cpu())
        captions += [s.caption for s in samples]
        pictures += [s.index for s in samples]
    found = {PICTURE: torch.tensor(pictures, dtype=torch.int64)}
    if not pictures:
        return found, left_out
    distinct = sorted(set(captions))
    position = {caption: i for i, caption in enumerate(distinct)}
    found[CAPTION] = torch.tensor([position[caption] for caption in captions])
    found[MEAN], found[LOGVAR] = torch.cat(means), torch.cat(logvars)
    if lows:
        found[LOW] = torch.cat(lows)
    states = [encoders.text(chunk) for chunk in _chunks(iter(distinct))]
    for name in states[0]:
        state = torch.cat([chunk[name].cpu() for chunk in states])
        found[name] = state.half() if state.is_floating_point() else state
    for name, tensor in found.items():
        check_finite(name, tensor, "nothing of this shard was cached")
    # a convolution may have left them channels last
    return {name: tensor.contiguous() for name, tensor in found.items()}, left_out


def check_finite(name: str, tensor: Tensor, remedy: str) -> None:
    """Refuse NaN and infinities; a variance of 0 has the logarithm -inf.

    Raises:
        ValueError: there are some.
    """
    if tensor.is_floating_point() and tensor.numel():
        low, high = torch.aminmax(tensor)  # both are NaN if anything is; 20 times as fast as isfinite on halves
        if not (high < torch.inf and (low > -torch.inf or name == LOGVAR)):
            raise ValueError(f"latent cache: '{name}' has values that are not finite in half precision; {remedy}")


def _readable(shown: Iterator[Shown], left_out: list[str]) -> Iterator[Sample]:
    for samples in shown:
        if isinstance(samples, str):
            left_out.append(samples)
        else:
            yield from samples


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == ENCODED_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(path: Path, shard: tuple[Tensors, list[str]]) -> None:
    tensors, left_out = shard
    write_atomically(path, save(tensors, metadata={"format": FORMAT, "left_out": json.dumps(left_out)}))


def _index(folder: Path, parts: int, hashes: dict[str, str]) -> dict[str, Any]:
    index: dict[str, Any] = {"format": FORMAT, **hashes, "rows": [], "bytes": [], "shape": [], "left_out": []}
    for n in range(parts):
        path = shard_path(folder, n)
        with safe_open(path, framework="pt") as file:
            rows = file.get_slice(PICTURE).get_shape()[0]
            index["rows"].append(rows)
            index["shape"].append(file.get_slice(MEAN).get_shape()[1:] if rows else [])
            index["left_out"] += json.loads(file.metadata()["left_out"])
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
    if not path.is_file():
        return False
    if index is not None:
        return bool(path.stat().st_size == index["bytes"][number])
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except SafetensorError:
        return False


def _tell(directory: Path, folder: Path, hashes: dict[str, str], index: dict[str, Any] | None, todo: int) -> None:
    """Say why a cache is made, where one might have been expected to be there."""
    if index is not None:
        report("%s: %d shards are missing or damaged; they are made again", folder, todo)
        return
    for other in sorted(directory.glob(f"latents-*/{INDEX}")):
        old = _read_index(other.parent) or {}
        changed = [name for name in ("encoders", "settings", "pictures") if old.get(name) != hashes[name]]
        if old.get("path") == hashes["path"]:
            what = " and ".join(changed)
            report("%s: of other %s than now; not used, a new cache is made", other.parent, what)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
