"""Pictures of many shapes in batches of one: each goes to the size that cuts least off it, and nothing is distorted."""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch

from ldm.core.rng import fold
from ldm.data.position import ResumableSampler

Size = tuple[int, int]  # height, width in pixels
LONGEST = 2.0  # long side over short side of the most stretched bucket


def bucket_sizes(size: int, unit: int) -> list[Size]:
    """The sizes of the buckets: multiples of `unit` of at most size x size pixels, up to twice as long as wide.

    For every short side the longest long side that keeps the area; the square among them.

    Args:
        size: side of the square bucket, pixels; a multiple of `unit`.
        unit: what the sides are multiples of.

    Raises:
        ValueError: `size` is no multiple of `unit`.
    """
    if size % unit:
        raise ValueError(f"size: {size} is not a multiple of {unit}, the unit of this model's pictures")
    found: set[Size] = set()
    for short in range(unit, size + 1, unit):
        long = size * size // short // unit * unit
        if long <= LONGEST * short:
            found |= {(short, long), (long, short)}
    return sorted(found)


def kept_share(picture: Size, bucket: Size) -> float:
    """Share of a picture that is left when it is scaled to cover a bucket and cropped, in (0, 1]."""
    ratio = (picture[0] * bucket[1]) / (picture[1] * bucket[0])
    return min(ratio, 1 / ratio)


def nearest(picture: Size, buckets: Sequence[Size]) -> int:
    """Which bucket keeps most of a picture; the larger one of two that keep the same."""
    return max(range(len(buckets)), key=lambda i: (kept_share(picture, buckets[i]), buckets[i][0] * buckets[i][1]))


class BucketOrder:
    """Endless batches of one bucket each, all of them full, as a pure function of a seed and a step.

    Every bucket has its own endless order, one permutation of its pictures after the other, cut into batches. Epoch e
    shows of a bucket with n pictures the batches that end within its first (e + 1) n positions: what is left over, less
    than a batch, begins the next epoch. So a picture is never shown again before every other one of its bucket was,
    no batch is cut short, and the bucket of a step is the same for all processes.

    Args:
        bucket_of: the bucket of every picture.
        seed: decides the order.
        batch: pictures of all processes together in a step.
        parts: items of each part of the data set, in order and of one bucket each; see `ResumableSampler`.

    Raises:
        ValueError: no pictures, or a batch below 1.
    """

    def __init__(
        self,
        bucket_of: Sequence[int],
        seed: int,
        *,
        batch: int,
        parts: Sequence[int] | None = None,
    ):
        if batch < 1:
            raise ValueError(f"batch: {batch} is below 1")
        if not len(bucket_of):
            raise ValueError("buckets: no pictures to sample from; at least 1 is needed")
        self.seed, self.batch = seed, batch
        buckets = torch.as_tensor(bucket_of)
        names = buckets.unique().tolist()
        self._members = [torch.nonzero(buckets == name).flatten() for name in names]
        of_bucket: list[list[int] | None] = [None] * len(names)
        if parts is not None:
            first = buckets[torch.tensor([0, *accumulate(parts)][:-1])].tolist()
            of_bucket = [[n for n, bucket in zip(parts, first, strict=True) if bucket == name] for name in names]
        self._orders = [
            ResumableSampler(len(members), fold(seed, "bucket", i), parts=of_bucket[i])
            for i, members in enumerate(self._members)
        ]
        self._epoch, self._plan = -1, torch.empty(0, dtype=torch.int64)

    def ends(self, epoch: int) -> list[int]:
        """How many batches of every bucket have been shown when `epoch` = 0, 1, ... is over."""
        return [(epoch + 1) * len(members) // self.batch for members in self._members]

    def indices(self, step: int) -> list[int]:
        """The pictures of the whole batch at `step` >= 0, all of one bucket."""
        epoch = self._epoch_of(step)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._shuffled(epoch)
        before = self.ends(epoch - 1)
        offset = step - sum(before)
        bucket = int(self._plan[offset])
        earlier = before[bucket] + int((self._plan[:offset] == bucket).sum())
        positions = range(earlier * self.batch, (earlier + 1) * self.batch)
        members, order = self._members[bucket], self._orders[bucket]
        return [int(members[order.index(position)]) for position in positions]

    def _epoch_of(self, step: int) -> int:
        low = max(
            0, step * self.batch // self._pictures - 1
        )  # an epoch has at most its pictures and what was left over
        while sum(self.ends(low)) <= step:
            low += 1
        return low

    @cached_property
    def _pictures(self) -> int:
        return sum(map(len, self._members))

    def _shuffled(self, epoch: int) -> torch.Tensor:
        """Which bucket each batch of an epoch is of."""
        before, after = self.ends(epoch - 1), self.ends(epoch)
        counts = torch.tensor([b - a for a, b in zip(before, after, strict=True)])
        plan = torch.repeat_interleave(torch.arange(len(counts)), counts)
        generator = torch.Generator().manual_seed(fold(self.seed, "plan", epoch))
        return plan[torch.randperm(len(plan), generator=generator)]
