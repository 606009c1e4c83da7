"""A schedule written down as numbers: levels at even times, joined by straight lines.

What a learned schedule becomes when it is saved: a model then carries no network for its noise levels.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from ldm.core.ranges import FARTHEST
from ldm.core.shapes import LogSNR, PerImage
from ldm.process.schedule import Schedule
from ldm.process.tables import level_at, position_of, slope_at


@dataclass(frozen=True, kw_only=True)
class PiecewiseLogSNR:
    """logsnr(t) linear between given levels at t = 0, 1/n, ..., 1.

    Unlike `Tabulated`, both ends are given: the level at t = 0 is the first number, not half a noise-to-signal ratio
    above the first step of a table. The number of steps T is independent of the number of levels.

    Args:
        levels: n + 1 levels, strictly falling, in [-80, 80] nats; the first is that of the data's end.
        steps: T, see `Schedule`.

    Raises:
        ValueError: fewer than two levels, a level that is not finite or out of range, levels that do not fall
            strictly (a learned schedule that lost its monotonicity), or `steps` below 1.
    """

    kind: Literal["piecewise_logsnr"] = "piecewise_logsnr"
    levels: tuple[float, ...]
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps} is below 1; a schedule has at least one step (1000 is usual)")
        if len(self.levels) < 2:
            raise ValueError(f"levels: {len(self.levels)} given; a schedule needs its two ends or more")
        for i, level in enumerate(self.levels):
            if not -FARTHEST <= level <= FARTHEST:  # also refuses nan
                raise ValueError(f"levels[{i}]: {level} is outside [-{FARTHEST}, {FARTHEST}] nats; freeze it again")
        for i, (cleaner, noisier) in enumerate(pairwise(self.levels)):
            if not cleaner > noisier:
                raise ValueError(
                    f"levels[{i}:{i + 2}]: {cleaner}, {noisier} do not fall; a schedule is strictly monotone, so "
                    "learn it again with a lower rate or hold its ends"
                )

    def __call__(self, t: PerImage) -> LogSNR:
        return level_at(self.levels, t)

    def inverse(self, logsnr: LogSNR) -> PerImage:
        return position_of(self.levels, logsnr) / (len(self.levels) - 1)

    def slope(self, t: PerImage) -> PerImage:
        return slope_at(self.levels, t)

    def timesteps(self, logsnr: LogSNR) -> PerImage:
        return self.inverse(logsnr) * self.steps - 1


def freeze(schedule: Schedule, cells: int = 256) -> PiecewiseLogSNR:
    """Any schedule as numbers, its levels read at t = 0, 1/cells, ..., 1 in float64.

    The continuous bound of the result is that of the original, since it depends on the ends alone.

    Args:
        schedule: e.g. a trained `ldm.nets.gamma.GammaNet`.
        cells: straight pieces, 1 or more.

    Raises:
        ValueError: `cells` below 1, or the schedule is not strictly falling or not finite.
    """
    if cells < 1:
        raise ValueError(f"cells: {cells} is below 1; 256 follows any smooth schedule")
    with torch.no_grad():
        levels = schedule(torch.linspace(0, 1, cells + 1, dtype=torch.float64)).tolist()
    if not math.isfinite(sum(levels)):
        raise ValueError("schedule: it has levels that are not finite, as with zero terminal SNR; give it finite ends")
    return PiecewiseLogSNR(levels=tuple(levels), steps=schedule.steps)
