"""Euler's method in sigma, as k-diffusion and EDM have it: DDIM's step, with churn, or with noise by another name."""

import math

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim
from ldm.samplers.churn import check, churned
from ldm.samplers.loop import OnStep, Step, per_image, steps_of


def sample(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    churn: float = 0.0,
    churn_lo: float = -math.inf,
    churn_hi: float = math.inf,
) -> Latent:
    """Walk down the grid, one evaluation a step. First order; without churn it is DDIM with eta = 0.

    In x_ve = x / sqrt(alpha_bar) the equation is d x_ve / d sigma_ve = eps_hat, and Euler's step of it, x_ve +
    (sigma_s - sigma_t) eps_hat, is DDIM's.

    Source: Karras et al. 2022 (arXiv:2206.00364) Algorithm 2 without its lines 7 to 9.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: one stream per image. Touched only where there is churn.
        on_step: called after each step, with the level and the latent after the churn.
        churn: see `ldm.samplers.churn`.
        churn_lo: noisiest level at which there is churn, nats.
        churn_hi: cleanest one.

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: options of churn cannot be meant, or noise is needed and there is none.
    """
    check(churn, churn_lo, churn_hi)
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, level = churned(x, logsnr_t, len(grid), noise, churn=churn, lo=churn_lo, hi=churn_hi)
        x0_hat = denoise(x_t, per_image(level, x_t)).x0
        x = ddim.step(x_t, x0_hat, level, logsnr_s)
        if on_step is not None:
            on_step(Step(index, len(grid), level, x_t, x0_hat))
    return x


def ancestral(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    eta: float = 1.0,
) -> Latent:
    """Euler's step to a level cleaner than the next one, and noise to get back to it ("Euler a").

    With k-diffusion's split, sigma_up = eta sigma_s sqrt(1 - sigma_s^2 / sigma_t^2) and sigma_down^2 = sigma_s^2 -
    sigma_up^2, this is word for word DDIM with the same eta; with 1, ancestral sampling with the posterior's variance.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: one stream per image.
        on_step: called after each step.
        eta: share of the noise, in [0, 1].

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: as `ddim.sample`.
    """
    return ddim.sample(denoise, x, grid, noise, on_step=on_step, eta=eta)
