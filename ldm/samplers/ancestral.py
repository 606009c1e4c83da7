"""Ancestral sampling (DDPM): draw each cleaner state from the reverse Gaussian, with x0_hat in the place of x_0."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ldm.core.ranges import check_alike
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.conditionals import q_posterior
from ldm.process.grid import TimeGrid
from ldm.process.variance import AnalyticVariance, learned_range, posterior, upper
from ldm.samplers.loop import Level, OnStep, Step, ends, fresh, per_image, steps_of, times

Name = Literal["posterior", "upper", "learned"]
Variance = Name | AnalyticVariance


def step(
    x_t: Latent,
    x0_hat: Latent,
    logsnr_t: Level,
    logsnr_s: Level,
    *,
    variance: Variance = "posterior",
    var_fraction: Latent | None = None,
    z: Latent | None = None,
) -> Latent:
    """One step from level t to the cleaner level s: a draw with the mean of q(x_s | x_t, x0_hat).

        x_s = mean(x_t, x0_hat) + sqrt(var) z

    `posterior` takes the variance of q(x_s | x_t, x_0), which is right if the data is one point, and `upper` that of
    q(x_t | x_s), right if the data is N(0, I): the extremes, for normalised latents. `learned` is where the network
    says between the two, for each element; a table (`AnalyticVariance`) gives the best single number for the data and
    the network that it was measured with. Without noise, a step to clean data (logsnr_s = inf) gives x0_hat.

    Source: lecture, "Denoising matching term" (mu_theta); Ho et al. 2020 (arXiv:2006.11239) Algorithm 2, section 3.2;
    learned: Nichol and Dhariwal 2021 (arXiv:2102.09672); table: Bao et al. 2022 (arXiv:2201.06503).

    Args:
        x_t: latents (b, *d) at level t.
        x0_hat: the denoiser's estimate from them (b, *d).
        logsnr_t: level to leave, nats.
        logsnr_s: level to reach, nats, above `logsnr_t`.
        variance: which one.
        var_fraction: the denoiser's word on it (b, *d), for `learned`.
        z: standard normal noise (b, *d); None gives the mean.

    Returns:
        x_s (b, *d).

    Raises:
        ValueError: `logsnr_s` is not the cleaner level (looked at on the CPU only), shapes differ, or there is noise to
            scale, and no `var_fraction` for `learned` or no such level in the table.
    """
    check_alike(x_t=x_t, x0_hat=x0_hat, var_fraction=var_fraction, z=z)
    t, s = ends(logsnr_t, logsnr_s)
    keep, pull = _coefficients(t, s)
    x_s = times(keep, x_t) + times(pull, x0_hat)
    if z is None:
        return x_s
    if variance == "learned":
        if var_fraction is None:
            raise ValueError("variance: 'learned', but the denoiser gives no var_fraction; use posterior or upper")
        return x_s + learned_range(var_fraction, s, t).sqrt() * z
    if isinstance(variance, AnalyticVariance):
        return x_s + times(variance(s, t).sqrt(), z)
    return x_s + times((posterior if variance == "posterior" else upper)(s, t).sqrt(), z)


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
        variance: `posterior` (fewer steps), `upper` (hundreds of steps), `learned` (a network that was trained to
            say it) or a measured table that holds the levels of `grid`.

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: unknown `variance`, a level that its table lacks, a denoiser that does not say what `learned`
            needs, or noise is needed and there is none.
    """
    if isinstance(variance, AnalyticVariance):
        variance.check(grid)
    elif variance not in get_args(Name):
        raise ValueError(f"variance: {variance!r} is unknown; use posterior, upper, learned or an AnalyticVariance")
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, said = x, denoise(x, per_image(logsnr_t, x))
        z = fresh(noise, x) if logsnr_s < math.inf else None
        x = step(x_t, said.x0, logsnr_t, logsnr_s, variance=variance, var_fraction=said.var_fraction, z=z)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, said.x0))
    return x


def _coefficients(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of x_t and of x0_hat in the mean, each in the shape of the levels.

    The mean is linear in both ends, so its factors are the means for ends 0 and 1.
    """
    levels_s, levels_t = s.reshape(-1), t.reshape(-1)
    one = torch.ones_like(levels_t)[:, None]
    nothing = torch.zeros_like(one)
    keep = q_posterior(nothing, one, levels_s, levels_t).mean
    pull = q_posterior(one, nothing, levels_s, levels_t).mean
    return keep.reshape(t.shape), pull.reshape(t.shape)
