"""The levels that a sampler visits, and the rules that choose them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.process.schedule import Schedule

Spacing = Literal["leading", "trailing", "linspace", "quadratic", "uniform_logsnr", "karras", "stable_diffusion"]
TunedSpacing = Literal["tuned", "tuned_ode", "matched"]  # of tables that are measured with a model


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """n + 1 levels for n steps, strictly rising: from the noisiest, where sampling starts, to the cleanest.

    The rules below end at logsnr = inf, clean data, so the last step of a sampler returns the denoiser's x_0 itself;
    `end` gives another last level (Stable Diffusion's original samplers stop at the level of timestep 0). The first
    level may be -inf (zero terminal SNR).

    Args:
        logsnr: levels (n + 1,), nats, float64 on the CPU, so that no step is lost to rounding.

    Raises:
        ValueError: fewer than two levels, a dtype other than float64, or levels that do not rise strictly (which is
            also where a learned schedule that is not monotone is refused).
    """

    logsnr: Float[Tensor, " levels"]

    def __post_init__(self) -> None:
        if self.logsnr.dtype != torch.float64 or self.logsnr.ndim != 1 or len(self.logsnr) < 2:
            shape, dtype = tuple(self.logsnr.shape), self.logsnr.dtype
            raise ValueError(f"logsnr: {dtype} of shape {shape}; a grid needs one axis of two or more float64 levels")
        for i, (noisier, cleaner) in enumerate(pairwise(self.logsnr.tolist())):
            if not noisier < cleaner:
                raise ValueError(f"logsnr[{i}:{i + 2}]: {noisier}, {cleaner} do not rise; put noise first")

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.logsnr) - 1

    def steps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs (logsnr_t, logsnr_s) of scalar float64 tensors: the level to leave and the cleaner one to reach."""
        return zip(self.logsnr[:-1], self.logsnr[1:], strict=True)


def spaced(schedule: Schedule, steps: int, spacing: Spacing = "trailing", *, end: float = math.inf) -> TimeGrid:
    """Exactly `steps` of the schedule's T timesteps, chosen by a named rule.

    - trailing: every (T / steps)-th, counted from the noisiest, which is always among them.
    - leading: every (T / steps)-th, counted from timestep 0; starts from less than full noise.
    - linspace: evenly from timestep 0 to T - 1, both among them.
    - quadratic: the same with squared positions: dense near the data. Where squares would repeat a timestep, the
      next one is taken.
    - uniform_logsnr: evenly in level between the same two ends ("exponential" in other programs).
    - karras: evenly in sigma_ve^(1/7) between the same two ends.
    - stable_diffusion: every floor(T / steps)-th, counted from timestep 1, ending at the level of timestep 0 and not at
      clean data: what Stable Diffusion's own samplers visit, and diffusers with `timestep_spacing="leading",
      steps_offset=1, set_alpha_to_one=False`. All T timesteps are taken as they are.

    One step is the noisiest timestep under every rule but leading (timestep 0) and stable_diffusion (timestep 1).

    Source: Song et al. 2021 (arXiv:2010.02502) appendix D (leading, quadratic); Lin et al. 2024 (arXiv:2305.08891)
    section 3.3 (trailing, linspace).

    Args:
        steps: number of sampling steps, 1 .. T.
        end: last level, nats; see `TimeGrid`.

    Raises:
        ValueError: `steps` outside 1 .. T, or an unknown `spacing`.
    """
    _check_steps(steps, schedule)
    total = schedule.steps
    match spacing:
        case "trailing":
            return chosen(schedule, [_round(total * (i + 1), steps) - 1 for i in range(steps)], end=end)
        case "leading":
            return chosen(schedule, [total * i // steps for i in range(steps)], end=end)
        case "linspace":
            return chosen(schedule, _from_first_to_last(steps, total, power=1), end=end)
        case "quadratic":
            return chosen(schedule, _from_first_to_last(steps, total, power=2), end=end)
        case "uniform_logsnr":
            return uniform_logsnr(schedule, steps, end=end)
        case "karras":
            return karras(schedule, steps, end=end)
        case "stable_diffusion":
            return _from_timestep_one(schedule, steps, end=end)
    raise ValueError(f"spacing: {spacing!r} is unknown; use {', '.join(get_args(Spacing))}")


def chosen(schedule: Schedule, indices: Sequence[int], *, end: float = math.inf) -> TimeGrid:
    """The given timesteps: distinct integers in 0 .. T - 1, rising (they are visited from the last to the first).

    Raises:
        ValueError: no index, one out of range, or indices that do not rise.
    """
    total = schedule.steps
    if not indices:
        raise ValueError(f"indices: none given; give timesteps in 0..{total - 1}")
    for before, index in zip([-1, *indices], indices, strict=False):
        if not before < index < total:
            raise ValueError(f"indices: {index} after {before}; give rising timesteps in 0..{total - 1}")
    t = torch.tensor([(index + 1) / total for index in reversed(indices)], dtype=torch.float64)
    return _ending(schedule(t), end)


def _from_timestep_one(schedule: Schedule, steps: int, *, end: float) -> TimeGrid:
    if steps == schedule.steps:
        return chosen(schedule, range(steps), end=end)
    stop = schedule(torch.tensor([1 / schedule.steps], dtype=torch.float64)).item()
    return chosen(schedule, [1 + i * (schedule.steps // steps) for i in range(steps)], end=min(stop, end))


def uniform_logsnr(schedule: Schedule, steps: int, *, end: float = math.inf) -> TimeGrid:
    """`steps` levels evenly spaced in log-SNR from timestep T - 1 to timestep 0; with one step, T - 1 alone.

    Source: Lu et al. 2022 (arXiv:2206.00927).

    Raises:
        ValueError: `steps` outside 1 .. T, or a schedule that ends at pure noise (no finite first level).
    """
    noisiest, cleanest = _finite_ends(schedule, steps)
    return _ending(torch.linspace(noisiest, cleanest, steps, dtype=torch.float64), end)


def karras(schedule: Schedule, steps: int, rho: float = 7.0, *, end: float = math.inf) -> TimeGrid:
    """`steps` levels evenly spaced in sigma_ve^(1/rho) from timestep T - 1 to timestep 0, sigma_ve = exp(-logsnr/2).

    Source: Karras et al. 2022 (arXiv:2206.00364) Eq. 5.

    Raises:
        ValueError: as for `uniform_logsnr`, or `rho` not positive.
    """
    if not 0 < rho < math.inf:
        raise ValueError(f"rho: {rho} is not a positive number; 7 is usual, 1 is even in sigma")
    noisiest, cleanest = _finite_ends(schedule, steps)
    roots = torch.linspace(math.exp(-noisiest / (2 * rho)), math.exp(-cleanest / (2 * rho)), steps, dtype=torch.float64)
    return _ending(-2 * rho * roots.log(), end)


def _from_first_to_last(steps: int, total: int, power: int) -> list[int]:
    """round((total - 1) (i / (steps - 1))^power), lifted to i where rounding would repeat an index."""
    if steps == 1:
        return [total - 1]
    return [max(i, _round((total - 1) * i**power, (steps - 1) ** power)) for i in range(steps)]


def _round(numerator: int, denominator: int) -> int:
    """The quotient rounded to the nearest integer, halves up: exact, so that distinct stays distinct."""
    return (2 * numerator + denominator) // (2 * denominator)


def _finite_ends(schedule: Schedule, steps: int) -> tuple[float, float]:
    """Levels of timesteps T - 1 and 0."""
    _check_steps(steps, schedule)
    noisiest, cleanest = schedule(torch.tensor([1.0, 1 / schedule.steps], dtype=torch.float64)).tolist()
    if math.isinf(noisiest):
        raise ValueError("schedule: its noisiest level is -inf (zero terminal SNR); use spacing trailing or linspace")
    return noisiest, cleanest


def _check_steps(steps: int, schedule: Schedule) -> None:
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"steps: {steps} is not in 1..{schedule.steps}, the schedule's own number of steps")


def _ending(levels: Tensor, end: float) -> TimeGrid:
    return TimeGrid(torch.cat([levels, levels.new_tensor([end])]))
