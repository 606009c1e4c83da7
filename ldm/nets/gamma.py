"""A noise schedule with weights: a monotone network that fits the `Schedule` protocol of `ldm.process.schedule`."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.core.ranges import FARTHEST, check_levels, time_within
from ldm.core.shapes import LogSNR, PerImage

HALVINGS, NEWTON_STEPS = 24, 3  # to 6e-8 of the time axis, where a smooth shape is a straight line; then to rounding


@dataclass(frozen=True, kw_only=True)
class GammaSpec:
    """Shape and start of a learned schedule, which begins as a straight line in log-SNR.

    Attributes:
        kind: picks this specification.
        width: sigmoids that bend the line, 1 or more. They start spread evenly over t in [0, 1].
        logsnr_min, logsnr_max: where the two ends start, nats.
        steps: T, see `Schedule`.
    """

    kind: Literal["gamma"] = "gamma"
    width: int = 64
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("width", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below 1; give 1 or more")
        if not -FARTHEST <= self.logsnr_min < self.logsnr_max <= FARTHEST:
            raise ValueError(
                f"logsnr_min, logsnr_max: {self.logsnr_min}, {self.logsnr_max} must rise and lie in "
                f"[-{FARTHEST}, {FARTHEST}] nats"
            )


class GammaNet(nn.Module):
    """The level as a falling function of time, with learned ends and a learned interior between them.

        logsnr(t) = logsnr_max - (logsnr_max - logsnr_min) shape(t)
        shape(t)  = (g(t) - g(0)) / (g(1) - g(0)),   g(t) = a t + sum_k c_k sigmoid(w_k (t - m_k))

    with a, c_k, w_k positive (softplus of free weights), so that shape rises strictly from 0 to 1 whatever they are.
    The ends are free: should training cross them, the slope is positive, which the bound refuses (on the CPU), and so
    does `ldm.process.piecewise.freeze`.

    g is VDM's l1(t) + l3(sigmoid(l2(.))), here with l2 on t itself: the input l1(t) is the same up to a positive
    factor and an offset, which l2 absorbs. Source: Kingma et al. 2021 (arXiv:2107.00630) appendix H.

    No random numbers: the sigmoids start equal and evenly spread, so that with the usual width `shape` starts within
    1 % of t.
    Computes in the dtype of its argument, float32 or wider, on the device of the weights.
    """

    def __init__(self, spec: GammaSpec):
        super().__init__()
        self.spec, self.steps = spec, spec.steps
        k = spec.width
        self.logsnr_max = nn.Parameter(torch.tensor(spec.logsnr_max))
        self.logsnr_min = nn.Parameter(torch.tensor(spec.logsnr_min))
        self.line = nn.Parameter(torch.tensor(_unsoftplus(0.5)))
        self.heights = nn.Parameter(torch.full((k,), _unsoftplus(0.5 / k)))
        self.rates = nn.Parameter(torch.full((k,), _unsoftplus(2.0 * max(k, 4))))
        self.middles = nn.Parameter((torch.arange(k) + 0.5) / k)

    def ends(self) -> list[nn.Parameter]:
        """The parameters that the bound trains."""
        return [self.logsnr_max, self.logsnr_min]

    def interior(self) -> list[nn.Parameter]:
        """The parameters that the variance trains; the bound in continuous time does not depend on them."""
        return [self.line, self.heights, self.rates, self.middles]

    def forward(self, t: PerImage) -> LogSNR:
        """Level at time t in [0, 1], nats."""
        t = time_within(t)
        highest, lowest = self.logsnr_max.to(t.dtype), self.logsnr_min.to(t.dtype)
        return highest - (highest - lowest) * self.shape(t)

    def slope(self, t: PerImage) -> PerImage:
        """d logsnr / dt, negative, in closed form."""
        t = time_within(t)
        return (self.logsnr_min - self.logsnr_max).to(t.dtype) * self.shape_slope(t)

    def inverse(self, logsnr: LogSNR) -> PerImage:
        """Time of a level, by bisection and Newton steps inside of its last interval; the last step is differentiable.

        That step gives the result its exact gradient, in the level and in the weights. Beyond an end the schedule is
        taken to go on as a straight line.
        """
        check_levels(logsnr)
        span = (self.logsnr_max - self.logsnr_min).to(logsnr.dtype)
        return self.shape_inverse((self.logsnr_max.to(logsnr.dtype) - logsnr) / span)

    def timesteps(self, logsnr: LogSNR) -> PerImage:
        """Level as a timestep, see `Schedule`."""
        return self.inverse(logsnr) * self.steps - 1

    def shape(self, t: PerImage) -> PerImage:
        """The interior alone: rises strictly from 0 at t = 0 to 1 at t = 1."""
        return self._rise(t) / self._rise(t.new_ones(1))

    def shape_slope(self, t: PerImage) -> PerImage:
        """d shape / dt, positive, with mean 1 over t."""
        line, heights, rates, middles = self._positive(t)
        bump = torch.sigmoid(rates * (t[:, None] - middles))
        return (line + (heights * rates * bump * (1 - bump)).sum(1)) / self._rise(t.new_ones(1))

    def shape_inverse(self, height: PerImage) -> PerImage:
        """The time at which `shape` reaches `height` (b,)."""
        with torch.no_grad():
            inside = height.clamp(0, 1)
            low, high = torch.zeros_like(inside), torch.ones_like(inside)
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                below = self.shape(middle) < inside
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            t = (low + high) / 2
            for _ in range(NEWTON_STEPS):
                step = (inside - self.shape(t)) / self.shape_slope(t)
                t = torch.minimum(torch.maximum(t + step, low), high)
            slope = self.shape_slope(t)
        return t + (height - self.shape(t)) / slope

    def _rise(self, t: PerImage) -> PerImage:
        """g(t) - g(0): zero at t = 0, but for rounding."""
        line, heights, rates, middles = self._positive(t)
        bent = torch.sigmoid(rates * (t[:, None] - middles)) - torch.sigmoid(-rates * middles)
        return line * t + (heights * bent).sum(1)

    def _positive(self, t: PerImage) -> tuple[Tensor, Float[Tensor, " k"], Float[Tensor, " k"], Float[Tensor, " k"]]:
        """The line's slope, and heights, rates and middles of the sigmoids, in the dtype of `t`."""
        smallest = torch.finfo(torch.float32).tiny  # softplus may round to zero; a line must stay
        line = F.softplus(self.line.to(t.dtype)) + smallest
        return line, F.softplus(self.heights.to(t.dtype)), F.softplus(self.rates.to(t.dtype)), self.middles.to(t.dtype)


def _unsoftplus(value: float) -> float:
    """The number whose softplus is `value`."""
    return value + math.log(-math.expm1(-value))
