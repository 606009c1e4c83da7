"""Zero terminal SNR: any schedule rescaled so that its last level is pure noise."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from ldm.core.shapes import LogSNR, PerImage
from ldm.process.schedule import Cosine, LinearBeta, LinearLogSNR, ScaledLinearBeta, Sigmoid, Tabulated

FixedSchedule = LinearBeta | ScaledLinearBeta | Tabulated | Cosine | Sigmoid | LinearLogSNR


@dataclass(frozen=True, kw_only=True)
class ZeroTerminal:
    """`base` with sqrt(alpha_bar) shifted and scaled: its first step keeps its level, its last becomes pure noise.

    With a = sqrt(alpha_bar) of the base, a_first at t = 1/T and a_last at t = 1:

        a' = (a - a_last) a_first / (a_first - a_last)        for t >= 1/T, unchanged before

    so logsnr(1) = -inf. A network that predicts noise or score says nothing about x_0 there: predict v or x0.

    Source: Lin et al. 2024 (arXiv:2305.08891) Algorithm 1.

    Args:
        base: the schedule to rescale; at least 2 steps.
    """

    kind: Literal["zero_terminal"] = "zero_terminal"
    base: FixedSchedule = field(default_factory=ScaledLinearBeta)

    def __post_init__(self) -> None:
        if self.base.steps < 2:
            raise ValueError(f"base.steps: {self.base.steps} is below 2; the first step is kept, the last moved")

    @property
    def steps(self) -> int:
        return self.base.steps

    def __call__(self, t: PerImage) -> LogSNR:
        level = self.base(t)
        first, last = self._anchors(t)
        amplitude, gap = self._rescaled(level, first, last)
        return torch.where(level >= first, level, _level(amplitude, gap))

    def inverse(self, logsnr: LogSNR) -> PerImage:
        """Time (b,) in [0, 1] of levels (b,), nats; -inf is t = 1."""
        first, last = self._anchors(logsnr)
        (a_first, gap_first), (a_last, _) = _amplitude(first), _amplitude(last)
        amplitude, gap = _amplitude(logsnr)
        gain, rest = a_first / (a_first - a_last), a_last * gap_first / (a_first - a_last)
        undone = _level(amplitude / gain + a_last, (gap + rest) / gain)
        return self.base.inverse(torch.where(logsnr >= first, logsnr, undone))

    def slope(self, t: PerImage) -> PerImage:
        """d logsnr / dt, nats per unit of time; -inf at t = 1."""
        level = self.base(t)
        first, last = self._anchors(t)
        (a, gap), (a_first, _), (a_last, _) = _amplitude(level), _amplitude(first), _amplitude(last)
        a_new, gap_new = self._rescaled(level, first, last)
        gain = a_first / (a_first - a_last)
        stretch = gain * (a * gap * (1 + a)) / (a_new * gap_new * (1 + a_new))  # d logsnr' / d logsnr
        return torch.where(level >= first, 1.0, stretch) * self.base.slope(t)

    def timesteps(self, logsnr: LogSNR) -> PerImage:
        return self.inverse(logsnr) * self.steps - 1

    def _anchors(self, like: PerImage) -> tuple[LogSNR, LogSNR]:
        """Levels of the base at t = 1/T and t = 1."""
        return self.base(torch.full_like(like, 1 / self.steps)), self.base(torch.ones_like(like))

    @staticmethod
    def _rescaled(level: LogSNR, first: LogSNR, last: LogSNR) -> tuple[PerImage, PerImage]:
        """a' and 1 - a'."""
        (a, gap), (a_first, gap_first), (a_last, _) = _amplitude(level), _amplitude(first), _amplitude(last)
        span = a_first - a_last
        return (a - a_last) * (a_first / span), (a_first * gap - a_last * gap_first) / span


def zero_terminal(schedule: FixedSchedule) -> ZeroTerminal:
    """`schedule` rescaled to end at pure noise."""
    return ZeroTerminal(base=schedule)


def _amplitude(logsnr: LogSNR) -> tuple[PerImage, PerImage]:
    """a = sqrt(alpha_bar) and 1 - a, each precise where it is small."""
    a = logsnr.sigmoid().sqrt()
    return a, (-logsnr).sigmoid() / (1 + a)


def _level(a: PerImage, gap: PerImage) -> LogSNR:
    """log(a^2 / (1 - a^2)) from a and gap = 1 - a."""
    return 2 * a.log() - (gap * (1 + a)).log()
