"""Churn: go back to a noisier level with fresh noise before a step, so that errors of former steps are forgotten."""

import math

import torch

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.process.conditionals import q_step
from ldm.samplers.loop import fresh, per_image, times

MOST = math.sqrt(2) - 1  # largest growth of sigma_ve in a step: its noise is no more than what is there


def check(churn: float, lo: float, hi: float) -> None:
    """Refuse options that cannot be meant.

    Raises:
        ValueError: `churn` is negative or not finite, bounds do not rise, or there are bounds and no churn.
    """
    if not 0 <= churn < math.inf:
        raise ValueError(f"churn: {churn!r} is not a number >= 0; 0 is deterministic, 10 to 80 is usual for many steps")
    if not lo < hi:
        raise ValueError(f"churn_lo, churn_hi: {lo}, {hi} do not rise; give log-SNR bounds in nats, the noisier first")
    if churn == 0 and (lo, hi) != (-math.inf, math.inf):
        raise ValueError("churn_lo, churn_hi: there is no churn to bound; set churn above 0")


def churned(
    x: Latent, logsnr: float, steps: int, noise: NoiseStream | None, *, churn: float, lo: float, hi: float
) -> tuple[Latent, float]:
    """`x` moved to a noisier level, and that level, in nats: a draw of q(x_t | x_s).

    sigma_ve grows by the factor 1 + min(churn / steps, sqrt(2) - 1) at levels in [lo, hi], else the latent stays.

    Source: Karras et al. 2022 (arXiv:2206.00364) Algorithm 2, whose S_churn, S_tmin and S_tmax these are; S_noise is 1.

    Args:
        x: latents (b, *d).
        logsnr: their level, nats.
        steps: of the whole path.
        noise: one stream per image.
        churn: S_churn, 0 or more.
        lo: noisiest level at which there is churn, nats.
        hi: cleanest one.

    Raises:
        ValueError: noise is needed and there is none.
    """
    growth = min(churn / steps, MOST)
    if growth == 0 or not lo <= logsnr <= hi or logsnr == -math.inf:
        return x, logsnr
    level = logsnr - 2 * math.log1p(growth)
    dtype = per_image(logsnr, x).dtype
    if torch.tensor(level, dtype=dtype) == torch.tensor(logsnr, dtype=dtype):  # too little to be told to a network
        return x, logsnr
    noisier = q_step(x, per_image(logsnr, x), per_image(level, x))
    return noisier.mean.to(x.dtype) + times(noisier.var.flatten().sqrt(), fresh(noise, x)), level
