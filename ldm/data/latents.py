"""Latents and text states computed once: a training step then runs nothing but the denoiser.

The cache keeps the mean and variance of q(z | x), not a draw, so that every epoch sees fresh posterior noise. Its files
are mapped into memory, not read: what a run holds of them does not grow with the data set.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ldm.core.distributed import world
from ldm.data.caching import build
from ldm.data.folder import FolderSpec, ImageFolder, left_out
from ldm.data.parts import FolderParts, PipeParts
from ldm.data.shards import CAPTION, LOW, MEAN, PICTURE, Batch, Encoders, Shards

OF_PICTURE = (MEAN, "var", LOW, PICTURE)  # in a batch; everything else is of the caption


class LatentCache(Dataset[Batch]):
    """`views` views of every picture as posterior moments and text states.

    An item is one view of one picture, a dictionary of mean, var (c, h, w), low (k, c, h, w) where it was made, the
    picture's number in the data set, and the caption's states. The views of a picture follow each other. A picture that
    cannot be read is named, once, and has no items.

    Args:
        pictures: a folder, or the spec of shards that come out of a pipe.
        encoders: autoencoder and text encoder.
        views: views per picture; with 1, the plain one (own caption, white ground).
        directory: where caches are kept; made if missing. All processes of a run must see the same one.
        seed: of the views.
        progress: wraps the iteration over the shards that are made, e.g. tqdm.

    Raises:
        ValueError: an encoder gave a value that is not finite, or too many pictures cannot be read.
        OSError: the directory cannot be written, or another process of the run is gone.
    """

    def __init__(
        self,
        pictures: ImageFolder | FolderSpec,
        encoders: Encoders,
        *,
        views: int,
        directory: str | Path,
        seed: int,
        progress: Callable[[Any], Any] = iter,
    ):
        parts: FolderParts | PipeParts
        if isinstance(pictures, ImageFolder):
            parts = FolderParts(pictures, views, seed)
        else:
            parts = PipeParts(pictures, views, seed)
        self.folder, index = build(parts, encoders, Path(directory), world(), progress)
        self._shards = Shards(self.folder)
        self._ends = list(accumulate(index["rows"]))
        self._shapes: list[list[int]] = index["shape"]
        if world().first:
            for line in (*(pictures.faults if isinstance(pictures, ImageFolder) else ()), *index["left_out"]):
                left_out(line)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Batch:
        return {name: rows[0] for name, rows in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The items `indices` as one batch, which a loader takes as it is; all of one shape.

        Raises:
            ValueError: a shard is damaged, or holds values that are not finite.
        """
        return self._shards.batch([self._place(index) for index in indices])

    @property
    def mixed(self) -> bool:
        """Whether latents have different shapes, of which a batch can hold only one."""
        return len({tuple(shape) for shape in self._shapes if shape}) > 1

    def pictures(self) -> Tensor:
        """The number in the data set of every item's picture (n,)."""
        return torch.cat([self._shards[n][PICTURE] for n in range(len(self._ends))])

    def shapes(self) -> list[int]:
        """For every item, which of the shapes of this cache its latent has, numbered from 0."""
        numbers = {tuple(shape): i for i, shape in enumerate(sorted(set(map(tuple, self._shapes))))}
        starts = [0, *self._ends]
        return [numbers[tuple(s)] for n, s in enumerate(self._shapes) for _ in range(starts[n], self._ends[n])]

    def means_and_phrases(self) -> tuple[Tensor, Tensor]:
        """Posterior means (n, c, h, w) and the state "phrases" (n, 2, p) of all items, half precision, in memory."""
        shards = [self._shards[n] for n in range(len(self._ends)) if self._shapes[n]]
        means = torch.cat([shard[MEAN] for shard in shards])
        return means, torch.cat([shard["phrases"][shard[CAPTION]] for shard in shards])

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of an item, and its row there."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)


def collated(items: Any) -> Any:
    """What a loader makes of the items of a data set; a `LatentCache` gives a batch already."""
    return items if isinstance(items, dict) else default_collate(items)
