"""Ancestral sampling (DDPM): draw each cleaner state from the reverse Gaussian, with x0_hat in the place of x_0."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.conditionals import q_posterior, q_step
from ldm.process.grid import TimeGrid
from ldm.samplers.loop import Level, OnStep, Step, exact, fresh, per_image, steps_of, times

Variance = Literal["posterior", "upper"]


def step(
    x_t: Latent,
    x0_hat: Latent,
    logsnr_t: Level,
    logsnr_s: Level,
    *,
    variance: Variance = "posterior",
    z: Latent | None = None,
) -> Latent:
    """One step from level t to the cleaner level s: a draw with the mean of q(x_s | x_t, x0_hat).

        x_s = mean(x_t, x0_hat) + sqrt(var) z

    `posterior` takes the variance of q(x_s | x_t, x_0), which is right if the data is one point, and `upper` that of
    q(x_t | x_s), right if the data is N(0, I): the extremes, for normalised latents. Without noise, a step to clean
    data (logsnr_s = inf) gives x0_hat.

    Source: lecture, "Denoising matching term" (mu_theta); Ho et al. 2020 (arXiv:2006.11239) Algorithm 2, section 3.2.

    Args:
        x_t: latents (b, *d) at level t.
        x0_hat: the denoiser's estimate from them (b, *d).
        logsnr_t: level to leave, nats.
        logsnr_s: level to reach, nats, above `logsnr_t`.
        variance: which of the two bounds.
        z: standard normal noise (b, *d); None gives the mean.

    Returns:
        x_s (b, *d).
    """
    keep, pull, var = _coefficients(exact(logsnr_t), exact(logsnr_s), variance)
    x_s = times(keep, x_t) + times(pull, x0_hat)
    return x_s if z is None else x_s + times(var.sqrt(), z)


def sample(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    variance: Variance = "posterior",
) -> Latent:
    """Walk down the grid, one evaluation and one draw a step; a step to clean data draws nothing.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: one stream per image.
        on_step: called after each step.
        variance: `posterior` (fewer steps) or `upper` (hundreds of steps).

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: unknown `variance`, or noise is needed and there is none.
    """
    if variance not in get_args(Variance):
        raise ValueError(f"variance: {variance!r} is unknown; use posterior (few steps) or upper (hundreds of steps)")
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, x0_hat = x, denoise(x, per_image(logsnr_t, x)).x0
        z = fresh(noise, x) if logsnr_s < math.inf else None
        x = step(x_t, x0_hat, logsnr_t, logsnr_s, variance=variance, z=z)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, x0_hat))
    return x


def _coefficients(t: Tensor, s: Tensor, variance: Variance) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of x_t and of x0_hat in the mean, and the variance, each in the shape of the levels.

    The mean is linear in both ends, so its factors are the means for ends 0 and 1.
    """
    levels_s, levels_t = s.reshape(-1), t.reshape(-1)
    one = torch.ones_like(levels_t)[:, None]
    nothing = torch.zeros_like(one)
    keep = q_posterior(nothing, one, levels_s, levels_t).mean
    posterior = q_posterior(one, nothing, levels_s, levels_t)
    var = posterior.var if variance == "posterior" else q_step(one, levels_s, levels_t).var
    return keep.reshape(t.shape), posterior.mean.reshape(t.shape), var.reshape(t.shape)
