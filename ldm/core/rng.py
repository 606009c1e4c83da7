"""Randomness as an argument: one CPU stream per image, so a seed means the same picture in any batch."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def fold(seed: int, *names: int | str) -> int:
    """Derive an independent 63-bit seed from `seed` and any path of names, e.g. `fold(seed, "train", step, image)`.

    A pure function: what a run draws at step k needs no stored state, so a resumed run draws the same.
    """
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class NoiseStream:
    """Independent standard normal and uniform streams, one per image.

    Draws are made on the CPU in float32 whatever the target, so a seed gives the same numbers on every device
    and at every precision, and image i does not depend on how many others are drawn beside it.

    Args:
        seeds: one integer in [0, 2**63) per image, in batch order. Torch's CPU generator reads the low 32 bits only:
            seeds that agree in them give the same stream.
    """

    def __init__(self, seeds: Sequence[int]):
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._batch: _Rows | None = None

    @classmethod
    def of_batch(cls, seed: int, rank: int = 0, size: int = 1) -> "NoiseStream":
        """One stream for a training batch that `size` processes share; this one, `rank`, has every `size`-th row.

        Of draws (1, b, *d), b the rows of this process, each row has a stream of its own, a function of `seed` and of
        its number in the whole batch: a process draws only what it needs. Draws of one number for each row, (1, b),
        come from a stream of the whole batch.
        """
        stream = cls([seed])
        stream._batch = _Rows(seed, rank, size)
        return stream

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Standard normals of `shape` = (b, *d), b the number of seeds, with the device and dtype of `like`.

        Raises:
            ValueError: `shape[0]` is not the number of streams.
        """
        return self._stack(torch.randn, shape, like)

    def uniform(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Uniforms in [0, 1) of `shape` = (b, *d), with the device and dtype of `like`."""
        return self._stack(torch.rand, shape, like)

    def jointly(self, b: int, draw: Callable[[int, "NoiseStream"], Tensor]) -> Tensor:
        """What `draw(n, noise)` gives for this process's b rows where the rows of a batch of n depend on each other."""
        if self._batch is None:
            return draw(b, self)
        whole = NoiseStream([])
        whole._generators = self._generators
        return draw(b * self._batch.size, whole)[self._batch.rank :: self._batch.size]

    def state(self) -> list[Tensor]:
        """Opaque state of every stream; `restore` continues from it exactly."""
        return [generator.get_state() for generator in self._generators]

    def restore(self, state: list[Tensor]) -> None:
        """Continue from a `state()`, in place."""
        for generator, saved in zip(self._generators, state, strict=True):
            generator.set_state(saved)

    def _stack(self, draw: Callable[..., Tensor], shape: Sequence[int], like: Tensor | None) -> Tensor:
        if shape[0] != len(self._generators):
            raise ValueError(f"noise for {shape[0]} images asked of {len(self)} streams; give one seed each")
        if self._batch is None:
            drawn = torch.stack([draw(tuple(shape[1:]), generator=generator) for generator in self._generators])
        elif len(shape) == 2:
            drawn = self.jointly(shape[1], lambda n, whole: draw((n,), generator=whole._generators[0]))[None]
        else:
            rows = [draw(tuple(shape[2:]), generator=self._batch.generator(i)) for i in range(shape[1])]
            drawn = torch.stack(rows)[None]
        return drawn if like is None else drawn.to(device=like.device, dtype=like.dtype)


class _Rows:
    """The streams of this process's rows of a batch."""

    def __init__(self, seed: int, rank: int, size: int):
        self.seed, self.rank, self.size = seed, rank, size
        self._generators: dict[int, torch.Generator] = {}

    def generator(self, i: int) -> torch.Generator:
        """Of row i of this process, row rank + i size of the whole batch."""
        if i not in self._generators:
            seed = fold(self.seed, "row", self.rank + i * self.size)
            self._generators[i] = torch.Generator().manual_seed(seed)
        return self._generators[i]
