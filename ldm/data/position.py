"""The order in which training sees the data, as a pure function of a seed and a position."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, runtime_checkable

import torch
from torch.utils.data import Sampler

from ldm.core.distributed import World
from ldm.core.rng import fold

WINDOW = 8  # parts that are open at a time in an epoch that goes through the parts in turn


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
        parts: items of each part of the data set, laid end to end; the first epoch then goes through the parts in turn,
            as `through_parts`, and the others are plain permutations.
        always: every epoch goes through the parts: where a part is read as a whole each time, not the first time only.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        n: int,
        seed: int,
        start: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
        parts: Sequence[int] | None = None,
        always: bool = False,
    ):
        if n < 1:
            raise ValueError(f"n: {n} pictures to sample from; at least 1 is needed")
        if start < 0:
            raise ValueError(f"start: {start} is negative; a position counts pictures seen, from 0")
        if not 0 <= rank < world:
            raise ValueError(f"rank: {rank} is outside 0 to {world - 1} for world {world}")
        if parts is not None and sum(parts) != n:
            raise ValueError(f"parts: they have {sum(parts)} items together, not {n}")
        self.n, self.seed, self.start, self.rank, self.world = n, seed, start, rank, world
        self.parts, self.always = parts, always
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def index(self, position: int) -> int:
        """Index at `position` >= 0, in [0, n)."""
        epoch, offset = divmod(position, self.n)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
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

    def _permutation(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(fold(self.seed, "epoch", epoch))
        if self.parts is not None and (self.always or epoch == 0):
            return through_parts(self.parts, generator)
        return torch.randperm(self.n, generator=generator)


def through_parts(parts: Sequence[int], generator: torch.Generator, window: int = WINDOW) -> torch.Tensor:
    """A permutation of the items of `parts`, laid end to end, that goes through the parts in turn, a few at a time.

    The parts take turns k = 0, 1, ... in random order. An item of the part with turn k has the place k + window u, u
    uniform in [0, 1), and the items are sorted by place. So an item of turn k comes after all of turn k - window, and
    the first places are of turn 0 alone.

    Args:
        parts: items of each.
        generator: decides the order.
        window: parts whose items are mixed, 1 or more.
    """
    turn = torch.randperm(len(parts), generator=generator).double()
    within = torch.rand(sum(parts), generator=generator, dtype=torch.float64)
    places = turn.repeat_interleave(torch.tensor(parts)) + window * within
    return places.argsort(stable=True)


@runtime_checkable
class BatchOrder(Protocol):
    """Which items a step sees."""

    def indices(self, step: int) -> list[int]:
        """The items of the batch of all processes together at `step` >= 0."""
        ...


class Batches:
    """An order cut into batches.

    Args:
        order: of single items.
        batch: items of all processes together in a step.
    """

    def __init__(self, order: ResumableSampler, batch: int):
        self.order, self.batch = order, batch

    def indices(self, step: int) -> list[int]:
        return [self.order.index(position) for position in range(step * self.batch, (step + 1) * self.batch)]


class Shared(Sampler[list[int]]):
    """This process's rows of the batches of an order.

    Args:
        order: of the batches.
        start: the step to begin at.
        here: this process among those of the run.
    """

    def __init__(self, order: BatchOrder, start: int, here: World):
        self._order, self._start, self._here = order, start, here

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self._start):
            yield self._here.rows(self._order.indices(step))


class DrawSampler(Sampler[Draw]):
    """The same order as draws, for data sets that vary a picture each time: `ImageFolder` takes them as keys."""

    def __init__(self, order: ResumableSampler):
        self.order = order

    def __iter__(self) -> Iterator[Draw]:
        return map(self.order.draw, self.order.positions())
