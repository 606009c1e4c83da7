"""DPM-Solver++(2M): the ODE solved exactly but for x0_hat, taken as a straight line through its last two values."""

from typing import NamedTuple

import torch

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim
from ldm.samplers.loop import Level, OnStep, Step, exact, per_image, steps_of, times


class Estimate(NamedTuple):
    """What the denoiser said at a level: all that a multistep method remembers."""

    x0_hat: Latent
    logsnr: Level


def step(x_t: Latent, x0_hat: Latent, logsnr_t: Level, logsnr_s: Level, *, previous: Estimate | None = None) -> Latent:
    """One step from level t to the cleaner level s.

    With lambda = logsnr / 2, h = lambda_s - lambda_t, and h' = lambda_t - lambda_r the length of the step before,
    which started at r:

        D   = x0_hat_t + h / (2 h') (x0_hat_t - x0_hat_r)
        x_s = sigma_s / sigma_t x_t + sqrt(alpha_bar_s) (1 - exp(-h)) D

    Without `previous` D = x0_hat_t, and the step is DDIM's with eta = 0. So it is when either length is infinite: a
    step to clean data (logsnr_s = inf) gives x0_hat_t, for there is no point at infinity to extrapolate to, and an
    estimate from pure noise (logsnr_r = -inf) is infinitely far away and says nothing about the slope.

    Source: Lu et al. 2022 (arXiv:2211.01095) Algorithm 2, whose r_i is h' / h.

    Args:
        x_t: latents (b, *d) at level t.
        x0_hat: the denoiser's estimate from them (b, *d).
        logsnr_t: level to leave, nats.
        logsnr_s: level to reach, nats, above `logsnr_t`.
        previous: the estimate one step before and its level, below `logsnr_t`.

    Returns:
        x_s (b, *d).
    """
    if previous is not None:
        t, s, r = exact(logsnr_t), exact(logsnr_s), exact(previous.logsnr)
        weight = torch.where((s - t).isinf(), 0.0, (s - t) / (2 * (t - r)))
        x0_hat = x0_hat + times(weight, x0_hat - previous.x0_hat)
    return ddim.step(x_t, x0_hat, logsnr_t, logsnr_s)


def sample(
    denoise: Denoiser, x: Latent, grid: TimeGrid, noise: NoiseStream | None = None, *, on_step: OnStep | None = None
) -> Latent:
    """Walk down the grid, one evaluation a step. Second order in the step.

    Neighbouring steps should be of similar length in log-SNR: a step n times as long as the one before weighs the
    difference of the last two estimates, and its error, by n / 2.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: not touched; the method is deterministic.
        on_step: called after each step.

    Returns:
        Latents (b, *d) at the grid's last level.
    """
    previous: Estimate | None = None
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, x0_hat = x, denoise(x, per_image(logsnr_t, x)).x0
        x = step(x_t, x0_hat, logsnr_t, logsnr_s, previous=previous)
        previous = Estimate(x0_hat, logsnr_t)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, x0_hat))
    return x
