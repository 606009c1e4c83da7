"""The order in which training sees the data, as a pure function of a seed and a position."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from ldm.core.rng import fold


@dataclass(frozen=True)
class Draw:
    """One showing of one picture: which, and the seed of everything random about this showing."""

    index: int
    seed: int


class ResumableSampler(Sampler[int]):
    """Endless indices: every epoch is a fresh permutation of all n, and position p always holds the same index.

    A position counts the pictures that all processes have seen together since training began. A checkpoint stores
    that one number, which the training loop knows exactly (steps taken x global batch) whatever a data loader has
    fetched ahead; `start` continues from it. Process `rank` of `world` takes every `world`-th position, so the same
    global batch holds the same pictures on any number of processes, and no epoch is padded or cut.

    Args:
        n: pictures in the data set.
        seed: decides the order.
        start: position to begin at.
        rank: this process, 0 to world - 1.
        world: processes.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, n: int, seed: int, start: int = 0, *, rank: int = 0, world: int = 1):
        if n < 1:
            raise ValueError(f"n: {n} pictures to sample from; at least 1 is needed")
        if start < 0:
            raise ValueError(f"start: {start} is negative; a position counts pictures seen, from 0")
        if not 0 <= rank < world:
            raise ValueError(f"rank: {rank} is outside 0 to {world - 1} for world {world}")
        self.n, self.seed, self.start, self.rank, self.world = n, seed, start, rank, world
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def index(self, position: int) -> int:
        """Index at `position` >= 0, in [0, n)."""
        epoch, offset = divmod(position, self.n)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(fold(self.seed, "epoch", epoch))
            self._epoch, self._order = epoch, torch.randperm(self.n, generator=generator)
        return int(self._order[offset])

    def draw(self, position: int) -> Draw:
        """Index at `position` and the seed of its showing there, different at every position."""
        return Draw(self.index(position), fold(self.seed, "draw", position))

    def positions(self) -> Iterator[int]:
        """This process's positions from `start` on, without end."""
        position = self.start + self.rank
        while True:
            yield position
            position += self.world

    def __iter__(self) -> Iterator[int]:
        return map(self.index, self.positions())


class DrawSampler(Sampler[Draw]):
    """The same order as draws, for data sets that vary a picture each time: `ImageFolder` takes them as keys."""

    def __init__(self, order: ResumableSampler):
        self.order = order

    def __iter__(self) -> Iterator[Draw]:
        return map(self.order.draw, self.order.positions())
