"""DPM-Solver++, multistep: the equation solved exactly but for x0_hat, a polynomial through its last values.

Order 2 without fresh noise is DPM-Solver++(2M), the usual default; with `eta` it solves the reverse SDE.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from ldm.core.ranges import check_alike
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import exponential
from ldm.samplers.loop import Level, OnStep, Step, ends, fresh, per_image, steps_of, times


class Estimate(NamedTuple):
    """What the denoiser said at a level: all that a multistep method remembers."""

    x0_hat: Latent
    logsnr: Level


def step(
    x_t: Latent,
    x0_hat: Latent,
    logsnr_t: Level,
    logsnr_s: Level,
    *,
    previous: Estimate | None = None,
    eta: float = 0.0,
    z: Latent | None = None,
) -> Latent:
    """One step of order 1 or 2 from level t to the cleaner level s.

    With lambda = logsnr / 2, h = lambda_s - lambda_t, and h' = lambda_t - lambda_r the length of the step before,
    which started at r:

        D   = x0_hat_t + h / (2 h') (x0_hat_t - x0_hat_r)
        x_s = sigma_s / sigma_t exp(-eta h) x_t + sqrt(alpha_bar_s) (1 - exp(-(1 + eta) h)) D
              + sigma_s sqrt(1 - exp(-2 eta h)) z

    Without `previous` D = x0_hat_t, and the step with eta = 0 is DDIM's, with eta = 1 the ancestral one. So it is when
    either length is infinite: a step to clean data (logsnr_s = inf) gives x0_hat_t, for there is no point at infinity
    to extrapolate to, and an estimate from pure noise (logsnr_r = -inf) is infinitely far away and says nothing about
    the slope.

    Source: Lu et al. 2022 (arXiv:2211.01095) Algorithm 2, whose r_i is h' / h; with noise, their appendix A.

    Args:
        x_t: latents (b, *d) at level t.
        x0_hat: the denoiser's estimate from them (b, *d).
        logsnr_t: level to leave, nats.
        logsnr_s: level to reach, nats, above `logsnr_t`.
        previous: the estimate one step before and its level, below `logsnr_t`.
        eta: 0 solves the ODE, 1 the reverse SDE.
        z: standard normal noise (b, *d); None gives the mean.

    Returns:
        x_s (b, *d).

    Raises:
        ValueError: levels that do not rise from `previous` to t to s (looked at on the CPU only, see
            `ldm.core.ranges`), `eta` outside [0, 1], or shapes that differ.
    """
    check_alike(x_t=x_t, x0_hat=x0_hat, z=z, previous=None if previous is None else previous.x0_hat)
    if previous is not None:
        t, s = ends(logsnr_t, logsnr_s)
        r, _ = ends(previous.logsnr, logsnr_t)
        weight = torch.where((s - t).isinf(), 0.0, (s - t) / (2 * (t - r)))
        x0_hat = x0_hat + times(weight, x0_hat - previous.x0_hat)
    return _integrated(x_t, x0_hat, logsnr_t, logsnr_s, eta, z)


def check_rising(estimates: Sequence[Estimate], logsnr_s: Level) -> None:
    """Refuse levels that do not rise from the oldest estimate, the last, to the newest, and to where the step leads.

    Raises:
        ValueError: names the first pair (looked at on the CPU only).
    """
    ends(estimates[0].logsnr, logsnr_s)
    for newer, older in pairwise(estimates):
        ends(older.logsnr, newer.logsnr)


def step3(
    x_t: Latent,
    estimates: Sequence[Estimate],
    logsnr_s: float,
    *,
    eta: float = 0.0,
    z: Latent | None = None,
) -> Latent:
    """One step whose x0_hat is the polynomial through all `estimates`: of order 3 with three of them.

    The published third-order step (arXiv:2211.01095 appendix B and all public code) weighs the second difference by
    half of what the integral asks for, and is of order 2: measured in `tests/samplers/test_more_against_diffusers.py`.

    Args:
        x_t: latents (b, *d) at the level of the first estimate.
        estimates: the last ones with their levels, newest first; all levels finite.
        logsnr_s: level to reach, nats, finite.
        eta: as for `step`.
        z: as for `step`.

    Returns:
        x_s (b, *d).

    Raises:
        ValueError: as `step`.
    """
    check_alike(x_t=x_t, z=z, **{f"estimates[{i}]": e.x0_hat for i, e in enumerate(estimates)})
    check_rising(estimates, logsnr_s)
    t = _number(estimates[0].logsnr)
    h = (logsnr_s - t) / 2
    found = exponential.weights((1 + eta) * h, [(_number(e.logsnr) - t) / (2 * h) for e in estimates])
    total = sum(found)
    x0_hat = sum((e.x0_hat * (w / total) for e, w in zip(estimates, found, strict=True)), torch.zeros_like(x_t))
    return _integrated(x_t, x0_hat, t, logsnr_s, eta, z)


def sample(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    order: int | float = 2,
    eta: float = 0.0,
) -> Latent:
    """Walk down the grid, one evaluation a step.

    Neighbouring steps should be of similar length in log-SNR: a step n times as long as the one before weighs the
    difference of the last two estimates, and its error, by n / 2.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: one stream per image. Not touched if eta = 0, nor in a step to clean data.
        on_step: called after each step.
        order: of the steps, 1, 2 or 3 (a configuration file may make it a float); the first steps, and those that are
            infinitely long, are of lower order. Strong guidance is steadier with 2.
        eta: 0 solves the ODE, 1 the reverse SDE.

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: `order` is not 1, 2 or 3, `eta` is outside [0, 1], or noise is needed and there is none.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order: {order!r} is not possible; use 1, 2 or 3")
    _check_eta(eta)
    known: list[Estimate] = []
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, x0_hat = x, denoise(x, per_image(logsnr_t, x)).x0
        known = [Estimate(x0_hat, logsnr_t), *known][: int(order)]
        z = fresh(noise, x) if eta > 0 and logsnr_s < math.inf else None
        if len(known) == 3 and logsnr_s < math.inf and _number(known[-1].logsnr) > -math.inf:
            x = step3(x_t, known, logsnr_s, eta=eta, z=z)
        else:
            previous = known[1] if len(known) > 1 else None
            x = step(x_t, x0_hat, logsnr_t, logsnr_s, previous=previous, eta=eta, z=z)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, x0_hat))
    return x


def _integrated(x_t: Latent, x0_hat: Latent, logsnr_t: Level, logsnr_s: Level, eta: float, z: Latent | None) -> Latent:
    """The exact step for a constant x0_hat."""
    _check_eta(eta)
    t, s = ends(logsnr_t, logsnr_s)
    minus_h = (t - s) / 2
    keep = ((-s).sigmoid() / (-t).sigmoid()).sqrt() * (torch.exp(eta * minus_h) if eta > 0 else 1.0)
    pull = -s.sigmoid().sqrt() * torch.expm1((1 + eta) * minus_h)
    x_s = times(keep, x_t) + times(pull, x0_hat)
    if z is None:
        return x_s
    return x_s + times((-s).sigmoid().sqrt() * (-torch.expm1(2 * eta * minus_h)).sqrt(), z)


def _number(level: Level) -> float:
    return float(level)


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: {eta!r} is not a number in [0, 1]; 0 solves the ODE, 1 the reverse SDE")
