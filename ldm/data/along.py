"""A latent cache that grows while training goes along: a shard is made when the order of training first comes to it.

The shards are those of a cache that is made ahead, in the same folder, and either kind goes on with what the other has
left. The order of training does not depend on what is there, so a run that is killed and resumed takes the same steps.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count
from pathlib import Path
from threading import Event
from typing import Any

from torch.utils.data import Dataset, Sampler

from ldm.core.distributed import LostProcessError, World, world
from ldm.data.ahead import PATIENCE, Ahead
from ldm.data.caching import named, tell_of_others
from ldm.data.folder import ImageFolder, left_out
from ldm.data.parts import ROWS, FolderParts, Shown
from ldm.data.position import BatchOrder
from ldm.data.record import check_share
from ldm.data.shards import PICTURE, Batch, Encoders, Header, Shards, encode, header, shard_path, write


class Cancelled(Exception):
    """Nobody wants the shard any more that was being made or waited for."""


class GrowingCache(Dataset[Batch]):
    """`views` views of every picture as in a `LatentCache`, of which only those can be read whose shards are there.

    Its length and the shapes of its items are known before anything is encoded. What is shown instead of a picture that
    cannot be read is another one of the same shard.

    Args:
        pictures: a folder.
        encoders: autoencoder and text encoder.
        views: views per picture; with 1, the plain one.
        directory: where caches are kept; made if missing. All processes of a run must see the same one.
        seed: of the views.
        timeout: seconds to wait for a shard that another process makes.
    """

    def __init__(
        self,
        pictures: ImageFolder,
        encoders: Encoders,
        *,
        views: int,
        directory: str | Path,
        seed: int,
        timeout: float = 1800.0,
    ):
        self.parts, self._pictures, self._timeout = FolderParts(pictures, views, seed), pictures, timeout
        self._encoders: Encoders | None = encoders
        self._left_out = dict[int, list[str]]()
        self.folder, hashes, _ = named(self.parts, encoders, Path(directory))
        self._shards, self._ends = Shards(self.folder), list(accumulate(self.parts.rows))
        if world().first:
            if not self.folder.is_dir():
                tell_of_others(Path(directory), hashes)
            for line in pictures.faults:
                left_out(line)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker of a loader, which only reads: encoders hold a device and cannot go to another process."""
        return self.__dict__ | {"_encoders": None}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Batch:
        return {name: rows[0] for name, rows in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The items `indices` as one batch, all of one shape; their parts must have been made.

        Raises:
            ValueError: a shard is missing or damaged, or holds values that are not finite.
        """
        return self._shards.batch([self._place(index) for index in indices])

    @property
    def mixed(self) -> bool:
        """Whether latents have different shapes, of which a batch can hold only one."""
        return len(set(self.parts.buckets)) > 1

    def shapes(self) -> list[int]:
        """For every item, which of the shapes of this cache its latent has."""
        return [b for b, rows in zip(self.parts.buckets, self.parts.rows, strict=True) for _ in range(rows)]

    def part_of(self, index: int) -> int:
        """The part that item `index` is in, and so the number of its shard."""
        return bisect_right(self._ends, index)

    def make(self, part: int, cancelled: Event) -> None:
        """Make the shard of a part, unless it is there: this process alone is to make this one.

        Raises:
            ValueError: an encoder gave a value that is not finite.
            OSError: the shard cannot be written.
            Cancelled: `cancelled` was set meanwhile.
        """
        assert self._encoders is not None  # not in a worker
        for number in self._instead(part):
            path = shard_path(self.folder, number)
            found = header(path)
            if found is None:
                write(path, encode(_until(cancelled, self.parts.part(number)), self._encoders))
                found = header(path)
            if found is not None and found.rows:
                return

    def wait_for(self, part: int, here: World, cancelled: Event) -> None:
        """Until the shard of a part is there. The first process names the pictures that it leaves out.

        Raises:
            ValueError: of the whole data set too many pictures cannot be read.
            LostProcessError: the process that is to make it did not in time.
            Cancelled: `cancelled` was set meanwhile.
        """
        for number in self._instead(part):
            found = self._seen(number, here, cancelled)
            if number not in self._left_out:
                self._left_out[number] = found.left_out
                for line in found.left_out if here.first else ():
                    left_out(line)
            faults = [line for lines in self._left_out.values() for line in lines]
            check_share(self._pictures.spec.path, len(self._pictures) - len(faults), faults)
            if found.rows:
                return

    def _seen(self, number: int, here: World, cancelled: Event) -> Header:
        path, began = shard_path(self.folder, number), time.monotonic()
        while (found := header(path)) is None:
            if cancelled.wait(PATIENCE):
                raise Cancelled
            if time.monotonic() - began > self._timeout:
                raise LostProcessError(
                    f"process {here.rank} of {here.size}: another process of the run did not make {path} in "
                    f"{self._timeout:g} s; the last checkpoint is kept: run the same command to resume from it"
                )
        return found

    def _instead(self, part: int) -> Iterator[int]:
        """The part, and then those whose pictures are shown where it has none that can be read: first of its shape."""
        others = len(self.parts)
        of_its_shape = self.parts.buckets[part]
        yield part
        yield from sorted(
            (n for n in range(others) if n != part),
            key=lambda n: (self.parts.buckets[n] != of_its_shape, (n - part) % others),
        )

    def _place(self, index: int) -> tuple[int, int]:
        """The shard that an item is read from, and the row there."""
        index = range(len(self))[index]
        part = self.part_of(index)
        row = index - (self._ends[part - 1] if part else 0)
        for number in self._instead(part):
            rows = len(self._shards[number][PICTURE])
            if rows:
                return number, row % rows
        raise ValueError(f"{self._pictures.spec.path}: not one picture can be read")


class AsNeeded(Sampler[list[int]]):
    """This process's items of every batch, given out when the shards that the batch is read from are there.

    A shard is made by the process that its number falls to, in a thread, some way ahead of the batches that are given
    out: processes make different shards at the same time.

    Args:
        cache: the items 0 to len(cache) - 1 of the order are its own; others are nobody's concern here.
        order: of the batches.
        start: the step to begin at.
        here: this process among those of the run.
    """

    def __init__(self, cache: GrowingCache, order: BatchOrder, start: int, here: World):
        self._cache, self._order, self._start, self._here = cache, order, start, here
        self._cancelled = Event()

    def __iter__(self) -> Iterator[list[int]]:
        self._cancelled = cancelled = Event()
        batch = len(self._order.indices(self._start))
        ahead = max(2, self._here.size * ROWS // batch)
        try:
            for whole, parts in Ahead(self._made(cancelled), ahead):
                for part in parts:
                    self._cache.wait_for(part, self._here, cancelled)
                yield self._here.rows(whole)
        except Cancelled:
            return

    def cancel(self) -> None:
        """Stop making and waiting: whoever iterates does not want the next batch."""
        self._cancelled.set()

    def _made(self, cancelled: Event) -> Iterator[tuple[list[int], list[int]]]:
        """Every whole batch with the parts that it is the first to need, of which those of this process are made."""
        met: set[int] = set()
        for step in count(self._start):
            whole = self._order.indices(step)
            needed = dict.fromkeys(self._cache.part_of(index) for index in whole if index < len(self._cache))
            new = [part for part in needed if part not in met]
            met.update(new)
            for part in new:
                if part % self._here.size == self._here.rank:
                    self._cache.make(part, cancelled)
            yield whole, new


def _until(cancelled: Event, shown: Iterator[Shown]) -> Iterator[Shown]:
    for item in shown:
        if cancelled.is_set():
            raise Cancelled
        yield item
