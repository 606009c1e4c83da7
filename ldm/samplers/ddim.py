"""DDIM: keep the noise that the denoiser sees in x_t, and put only part of it (eta) anew. eta = 0 is an ODE solver."""

import math
from typing import Literal

import torch
from torch import Tensor

from ldm.core.ranges import check_alike
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.process.variance import AnalyticVariance
from ldm.samplers.loop import Level, OnStep, Step, ends, exact, fresh, per_image, steps_of, times

Variance = Literal["posterior"] | AnalyticVariance


def step(
    x_t: Latent,
    x0_hat: Latent,
    logsnr_t: Level,
    logsnr_s: Level,
    *,
    eta: float = 0.0,
    variance: Variance = "posterior",
    z: Latent | None = None,
) -> Latent:
    """One step from level t to the cleaner level s.

    With eps_hat = (x_t - sqrt(alpha_bar_t) x0_hat) / sigma_t and c = 1 - SNR_t / SNR_s:

        x_s = sqrt(alpha_bar_s) x0_hat + sigma_s (sqrt(1 - eta^2 c) eps_hat + eta sqrt(c) z)

    eta = 1 is the ancestral step with the posterior's variance; eta = 0 is DPM-Solver-1. Exact at both ends: a clean s
    (logsnr_s = inf) gives x0_hat; at a pure-noise t (logsnr_t = -inf) eps_hat is x_t.

    The variance of z is so that of q(x_s | x_t, x_0), lambda^2 = eta^2 c sigma_s^2. With a table (Analytic-DDIM) it is
    larger by what x_t leaves open about x_0, for eta = 0 too, while the mean stays.

    Source: Song et al. 2021 (arXiv:2010.02502) Eq. 12 and 16, for any s < t; table: Bao et al. 2022 (arXiv:2201.06503).

    Args:
        x_t: latents (b, *d) at level t.
        x0_hat: the denoiser's estimate from them (b, *d).
        logsnr_t: level to leave, nats.
        logsnr_s: level to reach, nats, above `logsnr_t`.
        eta: share of the posterior's standard deviation drawn anew, in [0, 1].
        variance: `posterior`, or a measured table that holds `logsnr_t`.
        z: standard normal noise (b, *d); None gives the mean, which is the step itself if eta = 0 or s is clean.

    Returns:
        x_s (b, *d).

    Raises:
        ValueError: `logsnr_s` is not the cleaner level (looked at on the CPU only), `eta` is outside [0, 1], shapes
            differ, or there is noise to scale and the level is not in the table.
    """
    check_alike(x_t=x_t, x0_hat=x0_hat, z=z)
    _check_eta(eta)
    t, s = ends(logsnr_t, logsnr_s)
    c = -torch.expm1(t - s)
    log_kept = 0.5 * torch.log1p(-(eta**2) * c)  # log of the share of eps_hat that stays
    keep = ((-s).sigmoid() / (-t).sigmoid()).sqrt() * log_kept.exp()
    # sqrt(alpha_bar_s) - keep sqrt(alpha_bar_t), whose terms nearly cancel in a short step
    pull = -s.sigmoid().sqrt() * torch.expm1((t - s) / 2 + log_kept)
    x_s = times(keep, x_t) + times(pull, x0_hat)
    if z is None:
        return x_s
    if isinstance(variance, AnalyticVariance):
        return x_s + times(variance(s, t, eta=float(eta)).sqrt(), z)
    return x_s + times(eta * (c * (-s).sigmoid()).sqrt(), z)


def sample(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    eta: float = 0.0,
    variance: Variance = "posterior",
) -> Latent:
    """Walk down the grid, one evaluation a step. First order in the step for eta = 0.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: one stream per image. Not touched if eta = 0 and there is no table, nor in a step to clean data.
        on_step: called after each step.
        eta: 0 is deterministic, 1 is ancestral sampling.
        variance: `posterior`, or a measured table that holds the levels of `grid` (Analytic-DDIM).

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: `eta` outside [0, 1], unknown `variance`, a level that its table lacks, or noise is needed and
            there is none.
    """
    _check_eta(eta)
    measured = isinstance(variance, AnalyticVariance)
    if isinstance(variance, AnalyticVariance):
        variance.check(grid)
    elif variance != "posterior":
        raise ValueError(f"variance: {variance!r} is unknown; use posterior (with eta) or an AnalyticVariance")
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, x0_hat = x, denoise(x, per_image(logsnr_t, x)).x0
        z = fresh(noise, x) if (measured or eta > 0) and logsnr_s < math.inf else None
        x = step(x_t, x0_hat, logsnr_t, logsnr_s, eta=eta, variance=variance, z=z)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, x0_hat))
    return x


def _check_eta(eta: float) -> None:
    if not (isinstance(eta, int | float) and 0 <= eta <= 1):
        raise ValueError(f"eta: {eta!r} is not a number in [0, 1]; 0 is deterministic, 1 is ancestral sampling")


def invert(
    denoise: Denoiser, x0: Latent, grid: TimeGrid, *, iterations: int = 1, on_step: OnStep | None = None
) -> Latent:
    """The noise from which `sample` with eta = 0 draws `x0`: the same grid, walked from its last level to its first.

    Each step of `sample` is solved for x_t, which stands on both sides of

        x_t = sqrt(alpha_bar_t / alpha_bar_s) x_s + sigma_t (1 - sqrt(SNR_t / SNR_s)) eps_hat(x_t, t)

    by fixed-point iteration, starting from the eps_hat of the step before. One iteration costs what the usual DDIM
    inversion costs and leaves a round trip with an error of second order in the step; more approach the exact inverse,
    the faster the shorter the step, as long as the right side is a contraction (strong guidance may break that). A grid
    that starts at pure noise (-inf) has no exact inverse: its first step forgets x_t.

    Source: Song et al. 2021 (arXiv:2010.02502) section 4.3; iterated, Pan et al. 2023 (arXiv:2309.04907).

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x0: latents (b, *d) at the grid's last level.
        grid: as for `sample`.
        iterations: evaluations per step, 1 or more.
        on_step: called after each step, with the level that was reached and the latent there.

    Returns:
        Latents (b, *d) at the grid's first level.

    Raises:
        ValueError: `iterations` below 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations: {iterations} is below 1; 1 is the usual inversion, 5 is nearly exact")
    x, eps_hat = x0, torch.zeros_like(x0)
    for index, (_, logsnr_t, logsnr_s) in enumerate(reversed(list(steps_of(grid)))):
        x_s, x0_hat = x, x0
        x = _noisier(x_s, eps_hat, logsnr_t, logsnr_s)
        for _ in range(iterations):
            x0_hat = denoise(x, per_image(logsnr_t, x)).x0
            eps_hat = _eps(x, x0_hat, logsnr_t)
            x = _noisier(x_s, eps_hat, logsnr_t, logsnr_s)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x, x0_hat))
    return x


def _noisier(x_s: Latent, eps_hat: Latent, logsnr_t: float, logsnr_s: float) -> Latent:
    """The latent at t from which the step to s arrives at x_s, if eps_hat is what the denoiser sees there."""
    t, s = exact(logsnr_t), exact(logsnr_s)
    push = -(-t).sigmoid().sqrt() * torch.expm1((t - s) / 2)
    return times((t.sigmoid() / s.sigmoid()).sqrt(), x_s) + times(push, eps_hat)


def _eps(x_t: Latent, x0_hat: Latent, logsnr_t: float) -> Latent:
    """The noise in x_t if x0_hat is its clean latent."""
    t = exact(logsnr_t)
    inverse_sigma: Tensor = (-t).sigmoid().rsqrt()
    return times(inverse_sigma, x_t) - times(t.exp().sqrt(), x0_hat)
