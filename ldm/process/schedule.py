"""Noise schedules: the level (log-SNR) as a falling function of time t in [0, 1], 0 = data, 1 = noise.

Every schedule computes in the dtype and on the device of its argument. Give float32 or wider: bfloat16 levels are
off by more than a whole step of a 1000-step table.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from ldm.core.ranges import check_levels, time_within
from ldm.core.shapes import LogSNR, PerImage
from ldm.process.tables import check_betas, check_ends, check_steps, level_at, logsnr_nodes, position_of, slope_at


@runtime_checkable
class Schedule(Protocol):
    """What the rest of the system asks of a schedule. `nets` may fit it with a learned one.

    All refuse times outside [0, 1] and levels that are not a number, by a `ValueError` that names the first; on the CPU
    only, see `ldm.core.ranges`.
    """

    @property
    def steps(self) -> int:
        """T: into how many steps time is cut where something needs integers. Timestep i sits at t = (i + 1) / T."""
        ...

    def __call__(self, t: PerImage) -> LogSNR:
        """Level at time t in [0, 1], nats, strictly falling."""
        ...

    def inverse(self, logsnr: LogSNR) -> PerImage:
        """Time of a level. Levels outside the schedule's own range give times outside [0, 1]."""
        ...

    def slope(self, t: PerImage) -> PerImage:
        """d logsnr / dt at time t, nats per unit of time, negative."""
        ...

    def timesteps(self, logsnr: LogSNR) -> PerImage:
        """Level as a DDPM timestep 0 .. T - 1: fractional between steps, exact integers at a table's nodes."""
        ...


class _Continuous(Protocol):
    """Closed-form schedules: T is a convention, so timesteps are a relabelling of time."""

    steps: int

    def inverse(self, logsnr: LogSNR) -> PerImage: ...

    def timesteps(self, logsnr: LogSNR) -> PerImage:
        return self.inverse(logsnr) * self.steps - 1


class _BetaTable(Protocol):
    """Discrete schedules: all levels follow from T betas. Between the nodes see `ldm.process.tables`."""

    def beta_table(self) -> tuple[float, ...]:
        """The T betas, first step first."""
        ...

    def nodes(self) -> tuple[float, ...]:
        """The T + 1 levels at t = 0, 1/T, ..., 1, falling, nats."""
        return logsnr_nodes(self.beta_table())

    def __call__(self, t: PerImage) -> LogSNR:
        return level_at(self.nodes(), t)

    def inverse(self, logsnr: LogSNR) -> PerImage:
        nodes = self.nodes()
        return position_of(nodes, logsnr) / (len(nodes) - 1)

    def slope(self, t: PerImage) -> PerImage:
        return slope_at(self.nodes(), t)

    def timesteps(self, logsnr: LogSNR) -> PerImage:
        return position_of(self.nodes(), logsnr) - 1


@dataclass(frozen=True, kw_only=True)
class LinearBeta(_BetaTable):
    """Betas on a straight line. The defaults are DDPM's. Source: Ho et al. 2020 (arXiv:2006.11239) section 4."""

    kind: Literal["linear_beta"] = "linear_beta"
    steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_betas((self.beta_first, self.beta_last))

    def beta_table(self) -> tuple[float, ...]:
        return _line(self.beta_first, self.beta_last, self.steps)


@dataclass(frozen=True, kw_only=True)
class ScaledLinearBeta(_BetaTable):
    """Square roots of the betas on a straight line. The defaults are those of Stable Diffusion 1 and 2.

    CompVis' code calls this one "linear". Source: Rombach et al. 2022 (arXiv:2112.10752), released configurations.
    """

    kind: Literal["scaled_linear_beta"] = "scaled_linear_beta"
    steps: int = 1000
    beta_first: float = 0.00085
    beta_last: float = 0.012

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_betas((self.beta_first, self.beta_last))

    def beta_table(self) -> tuple[float, ...]:
        roots = _line(math.sqrt(self.beta_first), math.sqrt(self.beta_last), self.steps)
        return tuple(root * root for root in roots)


@dataclass(frozen=True, kw_only=True)
class Tabulated(_BetaTable):
    """Any table of betas, each in (0, 1), first step first."""

    kind: Literal["tabulated"] = "tabulated"
    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        check_betas(self.betas)

    @property
    def steps(self) -> int:
        return len(self.betas)

    def beta_table(self) -> tuple[float, ...]:
        return self.betas


@dataclass(frozen=True, kw_only=True)
class Cosine(_Continuous):
    """logsnr(t) = -2 log tan(a(t)) + 2 log(shift), the angle a rising linearly in t.

    The angle does not run over all of (0, pi/2) but between those of `logsnr_max` and `logsnr_min`, so that the
    level is strictly falling, invertible, and exactly `logsnr_max` at t = 0 and `logsnr_min` at t = 1.

    Args:
        shift: below 1 moves every level to more noise, as larger pictures need: base side / side.
        logsnr_min, logsnr_max: the two ends, after the shift, nats.

    Source: Nichol and Dhariwal 2021 (arXiv:2102.09672) Eq. 17; in log-SNR, with shift and truncation,
    Hoogeboom et al. 2023 (arXiv:2301.11093) section 3.1.
    """

    kind: Literal["cosine"] = "cosine"
    steps: int = 1000
    shift: float = 1.0
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_ends(self.logsnr_min, self.logsnr_max)
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift: {self.shift} is not a positive number; 1 leaves the schedule as it is")

    def __call__(self, t: PerImage) -> LogSNR:
        t = time_within(t)
        angle, complement = self._angles(t)
        return 2 * (complement.sin().log() - angle.sin().log() + math.log(self.shift))

    def inverse(self, logsnr: LogSNR) -> PerImage:
        check_levels(logsnr)
        first, last = self._angle_of(self.logsnr_max), self._angle_of(self.logsnr_min)
        return (torch.exp(math.log(self.shift) - logsnr / 2).atan() - first) / (last - first)

    def slope(self, t: PerImage) -> PerImage:
        t = time_within(t)
        angle, complement = self._angles(t)
        span = self._angle_of(self.logsnr_min) - self._angle_of(self.logsnr_max)
        return -2 * span * (1 / angle.tan() + 1 / complement.tan())

    def _angle_of(self, logsnr: float) -> float:
        return math.atan(self.shift * math.exp(-logsnr / 2))

    def _angles(self, t: PerImage) -> tuple[PerImage, PerImage]:
        """The angle and pi/2 minus it, each precise where it is small."""
        first, last = self._angle_of(self.logsnr_max), self._angle_of(self.logsnr_min)
        end_complement = math.atan(math.exp(self.logsnr_min / 2) / self.shift)
        return first + t * (last - first), end_complement + (1 - t) * (last - first)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(_Continuous):
    """alpha_bar a rescaled sigmoid of -z, z rising linearly over [start, end], truncated at both ends.

    With u = z - start, w = end - z, each running linearly in t between the points where the level is
    `logsnr_max` (t = 0) and `logsnr_min` (t = 1):

        logsnr(t) = log sinh(w / 2) - log sinh(u / 2) + log cosh(start / 2) - log cosh(end / 2)

    which is log(alpha_bar / (1 - alpha_bar)) of alpha_bar = (s(end) - s(z)) / (s(end) - s(start)), s the logistic
    sigmoid, without the cancellation.

    Source: Jabri et al. 2022 (arXiv:2212.11972); Chen 2023 (arXiv:2301.10972) Algorithm 1, temperature 1 (another
    temperature is another start and end).
    """

    kind: Literal["sigmoid"] = "sigmoid"
    steps: int = 1000
    start: float = -3.0
    end: float = 3.0
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_ends(self.logsnr_min, self.logsnr_max)
        if not -50 <= self.start < self.end <= 50:
            raise ValueError(f"start, end: {self.start}, {self.end} must rise and lie in [-50, 50]; try -3 and 3")

    def __call__(self, t: PerImage) -> LogSNR:
        t = time_within(t)
        gone, left = self._distances(t)
        return _log_sinh(left / 2) - _log_sinh(gone / 2) + self._offset()

    def inverse(self, logsnr: LogSNR) -> PerImage:
        check_levels(logsnr)
        half = (self.end - self.start) / 2
        ratio = (logsnr - self._offset()).exp()  # sinh(left / 2) / sinh(gone / 2)
        gone = torch.log1p(2 * math.sinh(half) / (ratio + math.exp(-half)))
        first, last = self._gone_at(self.logsnr_max), self._gone_at(self.logsnr_min)
        return (gone - first) / (last - first)

    def slope(self, t: PerImage) -> PerImage:
        t = time_within(t)
        gone, left = self._distances(t)
        span = self._gone_at(self.logsnr_min) - self._gone_at(self.logsnr_max)
        return -span / 2 * (1 / (left / 2).tanh() + 1 / (gone / 2).tanh())

    def _offset(self) -> float:
        return math.log(math.cosh(self.start / 2)) - math.log(math.cosh(self.end / 2))

    def _gone_at(self, logsnr: float) -> float:
        """z - start where the level is `logsnr`: precise where it is small, and for any start and end."""
        half = (self.end - self.start) / 2
        return math.log1p(2 * math.sinh(half) / (math.exp(logsnr - self._offset()) + math.exp(-half)))

    def _left_at(self, logsnr: float) -> float:
        """end - z where the level is `logsnr`: `_gone_at` mirrored."""
        half = (self.end - self.start) / 2
        return math.log1p(2 * math.sinh(half) / (math.exp(self._offset() - logsnr) + math.exp(-half)))

    def _distances(self, t: PerImage) -> tuple[PerImage, PerImage]:
        first, last = self._gone_at(self.logsnr_max), self._gone_at(self.logsnr_min)
        return first + t * (last - first), self._left_at(self.logsnr_min) + (1 - t) * (last - first)


@dataclass(frozen=True, kw_only=True)
class LinearLogSNR(_Continuous):
    """logsnr(t) a straight line from `logsnr_max` (t = 0) to `logsnr_min` (t = 1).

    Source: Kingma et al. 2021 (arXiv:2107.00630), the log-SNR-linear schedule of their comparison.
    """

    kind: Literal["linear_logsnr"] = "linear_logsnr"
    steps: int = 1000
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_ends(self.logsnr_min, self.logsnr_max)

    def __call__(self, t: PerImage) -> LogSNR:
        t = time_within(t)
        return self.logsnr_max * (1 - t) + self.logsnr_min * t

    def inverse(self, logsnr: LogSNR) -> PerImage:
        check_levels(logsnr)
        return (self.logsnr_max - logsnr) / (self.logsnr_max - self.logsnr_min)

    def slope(self, t: PerImage) -> PerImage:
        t = time_within(t)
        return torch.full_like(t, self.logsnr_min - self.logsnr_max)


def _line(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(first + (last - first) * (i / max(count - 1, 1)) for i in range(count))


def _log_sinh(x: PerImage) -> PerImage:
    """log sinh(x), x > 0, without overflow."""
    return x + torch.log(-torch.expm1(-2 * x)) - math.log(2)
