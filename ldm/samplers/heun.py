"""Heun's method in sigma (EDM): Euler's step, then the same step again with the mean of the slopes at both ends."""

import math

from ldm.core.ranges import check_alike
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim
from ldm.samplers.churn import check, churned
from ldm.samplers.loop import OnStep, Step, ends, per_image, steps_of, times


def corrected(x_t: Latent, x0_t: Latent, x_s: Latent, x0_s: Latent, logsnr_t: float, logsnr_s: float) -> Latent:
    """Where the step from t leads with the mean of the noises seen at both of its ends.

        x_s + sqrt(alpha_bar_s) (sigma_ve_s - sigma_ve_t) (eps_s - eps_t) / 2

    with eps = (x - sqrt(alpha_bar) x0_hat) / sigma and sigma_ve = exp(-logsnr / 2).

    Source: Karras et al. 2022 (arXiv:2206.00364) Algorithm 2, lines 7 and 8.

    Args:
        x_t: latents (b, *d) at level t.
        x0_t: the denoiser's estimate from them.
        x_s: where Euler's (DDIM's) step led from them, at level s.
        x0_s: the denoiser's estimate there.
        logsnr_t: level of x_t, nats, finite.
        logsnr_s: level of x_s, nats, finite.

    Raises:
        ValueError: `logsnr_s` is not the cleaner level, or shapes differ.
    """
    check_alike(x_t=x_t, x0_t=x0_t, x_s=x_s, x0_s=x0_s)
    t, s = ends(logsnr_t, logsnr_s)
    sides = ((x_t, x0_t, t), (x_s, x0_s, s))
    eps_t, eps_s = (times((-level).sigmoid().rsqrt(), x) - times((level / 2).exp(), x0) for x, x0, level in sides)
    return x_s + times(s.sigmoid().sqrt() * ((-s / 2).exp() - (-t / 2).exp()) / 2, eps_s - eps_t)


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
    """Walk down the grid, two evaluations a step, one in a step that is infinitely long. Second order.

    Source: Karras et al. 2022 (arXiv:2206.00364) Algorithm 2.

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
        if -math.inf < level and logsnr_s < math.inf:
            x = corrected(x_t, x0_hat, x, denoise(x, per_image(logsnr_s, x)).x0, level, logsnr_s)
        if on_step is not None:
            on_step(Step(index, len(grid), level, x_t, x0_hat))
    return x
