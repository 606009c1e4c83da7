"""Guidance from two predictions of one network, with and without the condition: no classifier is needed."""

import math

import torch

from ldm.core.shapes import Latent, LogSNR
from ldm.denoiser import CondDenoiser, Denoised, Denoiser, bind
from ldm.guidance.combine import Combine, extrapolated
from ldm.nets.cond import Cond, concatenate


def classifier_free(
    denoise: CondDenoiser, cond: Cond, null: Cond, scale: float, combine: Combine | None = None
) -> Denoiser:
    """Classifier-free guidance: extrapolate from the unconditional to the conditional prediction.

        score = scale score(x_t | cond) + (1 - scale) score(x_t | null)

    in the lecture's convention, scale = gamma: 1 is the conditional denoiser itself and 0 the unconditional one (then
    the other is not evaluated), above 1 moves away from `null`. Stable Diffusion's guidance scale is the same number;
    the paper's own weight is w = scale - 1. The score is affine in x_0 with the same slope in both terms, so the
    formula holds word for word for x_0 (and for eps and v), which is where it is applied.

    A negative prompt is one that takes the place of the empty prompt in `null`.

    Both predictions come from one call with 2b rows. `var_fraction` is that of the conditional prediction alone (of
    the only one, for scale 0): an extrapolated fraction could leave [0, 1].

    Source: lecture, "Classifier-free guidance"; Ho and Salimans 2022 (arXiv:2207.12598) Eq. 6.

    Args:
        denoise: (x_t, logsnr, cond) -> Denoised.
        cond: what to draw, one row for each of b images.
        null: the empty or the negative prompt, the same b rows and fields.
        scale: strength, 0 or more; 3 to 9 is usual for text.
        combine: another rule for the two estimates than `extrapolated(scale)`, used where both are made.

    Returns:
        A denoiser of b images.

    Raises:
        ValueError: `scale` negative or not finite, or `cond` and `null` of different rows or fields.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale: {scale} is not a number >= 0; to move away from a prompt give it as the negative one")
    if len(cond) != len(null):
        raise ValueError(f"null: {len(null)} rows beside {len(cond)} of cond; give one row for each image")
    if scale == 1:
        return bind(denoise, cond)
    if scale == 0:
        return bind(denoise, null)
    rule = extrapolated(scale) if combine is None else combine
    joint = bind(denoise, concatenate([cond, null]))

    def guided(x_t: Latent, logsnr: LogSNR) -> Denoised:
        both = joint(torch.cat([x_t, x_t]), torch.cat([logsnr, logsnr]))
        x0_cond, x0_null = both.x0.chunk(2)
        var_fraction = None if both.var_fraction is None else both.var_fraction.chunk(2)[0]
        return Denoised(rule(x0_cond, x0_null), var_fraction)

    return guided


def on_interval(guided: Denoiser, plain: Denoiser, lo: float, hi: float) -> Denoiser:
    """Guide only at levels lo <= logsnr <= hi; elsewhere use the plain conditional denoiser.

    Guidance harms at high noise and does nothing at low noise. Only the denoiser that is needed is evaluated, which
    saves half the work outside of the interval, at the price of reading the level back once per call. A batch with
    levels on both sides (no sampler makes one) evaluates both. `var_fraction` is the conditional's everywhere.

    Source: Kynkaanniemi et al. 2024 (arXiv:2404.07724); their sigma is exp(-logsnr / 2).

    Args:
        guided: denoiser within the interval.
        plain: denoiser outside.
        lo: noisiest guided level, nats; -inf for no bound.
        hi: cleanest guided level, nats; inf for no bound.

    Raises:
        ValueError: `lo` is not below `hi`.
    """
    if not lo < hi:
        raise ValueError(f"lo, hi: {lo}, {hi} do not rise; give log-SNR bounds in nats, the noisier first")

    def sometimes_guided(x_t: Latent, logsnr: LogSNR) -> Denoised:
        inside = (logsnr >= lo) & (logsnr <= hi)
        count = int(inside.sum())  # stops the device; not knowing would cost a whole evaluation instead
        if count == len(inside):
            return guided(x_t, logsnr)
        if count == 0:
            return plain(x_t, logsnr)
        strong, weak = guided(x_t, logsnr), plain(x_t, logsnr)
        rows = inside.reshape(-1, *([1] * (x_t.ndim - 1)))
        return Denoised(torch.where(rows, strong.x0, weak.x0), weak.var_fraction)

    return sometimes_guided
