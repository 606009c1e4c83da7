"""A data set cut into parts, always in the same way: each part becomes one shard of a cache."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from os import cpu_count
from typing import Any, Protocol, runtime_checkable

import torch

from ldm.core.rng import fold
from ldm.data.folder import FolderSpec, ImageFolder, Sample, showings
from ldm.data.record import Record
from ldm.data.tar import PIPE, expand, stream_tar

ROWS = 512  # views in a shard: at the shapes of Stable Diffusion 93 MB, minutes of work at most
AT_ONCE = 64  # pictures that are decoded, or encoded, together
Shown = list[Sample] | str  # the views of a picture, or what is wrong with it


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

    Attributes:
        rows: of each part, where every picture can be read.
        buckets: of each part, the bucket of its pictures.
    """

    def __init__(self, folder: ImageFolder, views: int, seed: int):
        self.folder, self.views, self.seed = folder, views, seed
        pictures = max(1, ROWS // views)
        buckets = folder.buckets
        shapes = [torch.nonzero(buckets == bucket).flatten() for bucket in buckets.unique()]
        self._parts = [part for shape in shapes for part in shape.split(pictures)]
        self.rows = [len(part) * views for part in self._parts]
        self.buckets = [int(buckets[part[0]]) for part in self._parts]

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
        for chunk in chunks(items):
            yield from pool.map(decode, chunk)


def chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    """The items in lists of `AT_ONCE`; the last one may be shorter."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
