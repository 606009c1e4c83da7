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
        rank, size: a batch that `size` processes share has one stream, which all of them draw alike: for the b rows of
            this process, (1, b, *d), it draws all b * size and keeps rows rank, rank + size, ...

    Raises:
        ValueError: several streams for a shared batch.
    """

    def __init__(self, seeds: Sequence[int], *, rank: int = 0, size: int = 1):
        if size > 1 and len(seeds) != 1:
            raise ValueError(f"seeds: {len(seeds)} for a batch that {size} processes share; it has one stream")
        self._rank, self._size = rank, size
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

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

    def of_batch(self, b: int, draw: Callable[[int, "NoiseStream"], Tensor]) -> Tensor:
        """What `draw(n, noise)` gives for this process's b rows where the rows of a batch of n depend on each other."""
        if self._size == 1:
            return draw(b, self)
        whole = NoiseStream([0])
        whole._generators = self._generators
        return draw(b * self._size, whole)[self._rank :: self._size]

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
        wanted = tuple(shape[1:]) if self._size == 1 else (shape[1] * self._size, *shape[2:])
        rows = [draw(wanted, generator=generator) for generator in self._generators]
        drawn = torch.stack(rows) if self._size == 1 else rows[0][None, self._rank :: self._size]
        return drawn if like is None else drawn.to(device=like.device, dtype=like.dtype)
