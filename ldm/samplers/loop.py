"""What the samplers' loops share: levels as exact numbers, noise on demand, and the report of each step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ldm.core.ranges import check_cleaner
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent, LogSNR, expand_like
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid

Level = float | LogSNR  # nats: one number for the whole batch, as in sampling, or one per image; alike within a step


@dataclass(frozen=True, eq=False)
class Step:
    """What a sampler tells its watcher after each step. The tensors are the sampler's own: read them only.

    Attributes:
        index: which step, 0 .. steps - 1.
        steps: how many there are.
        logsnr: the level that was left, nats.
        x_t: the latent at that level (b, *d).
        x0_hat: what the denoiser made of it (b, *d), a preview of the result.
    """

    index: int
    steps: int
    logsnr: float
    x_t: Latent
    x0_hat: Latent


OnStep = Callable[[Step], object]  # what it returns is ignored; to cancel, it raises


@runtime_checkable
class Sampler(Protocol):
    """What every sampler is, with its options bound: from noise at the grid's first level to its last."""

    def __call__(
        self,
        denoise: Denoiser,
        x: Latent,
        grid: TimeGrid,
        noise: NoiseStream | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> Latent: ...


def steps_of(grid: TimeGrid) -> Iterator[tuple[int, float, float]]:
    """(index, logsnr_t, logsnr_s) of every step as plain numbers: reading them never waits for a device."""
    for index, (logsnr_t, logsnr_s) in enumerate(pairwise(grid.logsnr.tolist())):
        yield index, logsnr_t, logsnr_s


def per_image(logsnr: float, x: Latent) -> LogSNR:
    """The level as a denoiser wants it: (b,) on the device of `x`, in its precision but never below float32."""
    return torch.full((len(x),), logsnr, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def exact(level: Level) -> Tensor:
    """A level to compute coefficients from: a plain number becomes a float64 scalar on the CPU."""
    return level if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64)


def ends(logsnr_t: Level, logsnr_s: Level) -> tuple[Tensor, Tensor]:
    """Both levels of a step, `exact`.

    Raises:
        ValueError: s is not the cleaner one (looked at on the CPU only, see `ldm.core.ranges`).
    """
    t, s = exact(logsnr_t), exact(logsnr_s)
    check_cleaner(s, t)
    return t, s


def times(coefficient: Tensor, x: Latent) -> Latent:
    """Coefficient times latent, in the dtype of `x`.

    A scalar coefficient stays on the CPU: the device takes it as a kernel argument, with no copy to wait for. Those of
    each image may be there too; they are narrowed before they leave it, as not every device has float64.
    """
    if coefficient.ndim == 0:
        return coefficient * x
    return expand_like(coefficient.to(x.dtype).to(x.device), x) * x


def fresh(noise: NoiseStream | None, x: Latent) -> Latent:
    """Standard normals like `x`.

    Raises:
        ValueError: there is no stream to draw from.
    """
    if noise is None:
        raise ValueError(
            "noise: None, but the sampler draws noise in this step; pass a NoiseStream with a seed for each image"
        )
    return noise.normal(x.shape, like=x)
