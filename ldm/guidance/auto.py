"""Autoguidance: away from what a worse version of the same model would draw, prompt or no prompt."""

import math

from ldm.core.shapes import Latent, LogSNR
from ldm.denoiser import Denoised, Denoiser
from ldm.guidance.combine import Combine, extrapolated


def autoguided(strong: Denoiser, weak: Denoiser, scale: float, combine: Combine | None = None) -> Denoiser:
    """Extrapolate from the estimate of a weak denoiser to that of a strong one.

        score = scale score_strong(x_t) + (1 - scale) score_weak(x_t)

    The weak one is a smaller or less trained network for the same latents and the same condition; its errors are those
    of the strong one, larger, so that moving away from it undoes them. Unlike `classifier_free` this sharpens without
    loss of variety, and unconditional models too. Both networks are evaluated. `var_fraction` is the strong one's.

    Source: Karras et al. 2024 (arXiv:2406.02507) Eq. 2.

    Args:
        strong: the denoiser to improve; it may be guided already.
        weak: the worse one.
        scale: strength, 1 or more; 1 is `strong` itself.
        combine: another rule than `extrapolated(scale)`.

    Raises:
        ValueError: `scale` below 1 or not finite.
    """
    if not 1 <= scale < math.inf:
        raise ValueError(f"scale: {scale} is not a number >= 1; 1 is the strong model alone, 2 is usual")
    if scale == 1:
        return strong
    rule = extrapolated(scale) if combine is None else combine

    def guided(x_t: Latent, logsnr: LogSNR) -> Denoised:
        better, worse = strong(x_t, logsnr), weak(x_t, logsnr)
        return Denoised(rule(better.x0, worse.x0), better.var_fraction)

    return guided
