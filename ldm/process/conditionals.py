"""Exact conditionals of the variance-preserving forward process, in log-SNR coordinates."""

import torch

from ldm.core.gaussian import Gaussian
from ldm.core.ranges import check_alike, check_cleaner, check_levels
from ldm.core.shapes import Latent, LogSNR, expand_like


def q_sample(x0: Latent, eps: Latent, logsnr: LogSNR) -> Latent:
    """Noisy latents at a level, drawn from q(x_t | x_0) with the given noise:

        x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps

    Source: lecture, "analytical q(x_t|x_0)"; Ho et al. 2020 (arXiv:2006.11239) Eq. 4. Exact at both ends: logsnr =
    inf gives x_0, -inf gives eps.

    Args:
        x0: clean latents (b, *d).
        eps: standard normal noise (b, *d).
        logsnr: level (b,), nats.

    Returns:
        x_t (b, *d), in the dtype of `x0`.

    Raises:
        ValueError: a level is not a number (looked at on the CPU only, see `ldm.core.ranges`), or shapes differ.
    """
    check_alike(x0=x0, eps=eps)
    check_levels(logsnr)
    logsnr = expand_like(logsnr, x0)
    return (logsnr.sigmoid().sqrt() * x0 + (-logsnr).sigmoid().sqrt() * eps).to(x0.dtype)


def q_step(x_s: Latent, logsnr_s: LogSNR, logsnr_t: LogSNR) -> Gaussian:
    """Distribution of the noisier state x_t given a cleaner one, q(x_t | x_s), for s < t.

        mean = sqrt(alpha_bar_t / alpha_bar_s) x_s
        var  = 1 - alpha_bar_t / alpha_bar_s = (1 - SNR_t / SNR_s) sigma_t^2

    For s = t - 1 the ratio is the lecture's alpha_t and var its beta_t. Source: Kingma et al. 2021
    (arXiv:2107.00630) appendix A.

    Args:
        x_s: latents (b, *d) at level s.
        logsnr_s: level of `x_s` (b,), nats; inf is clean data. Must exceed `logsnr_t`.
        logsnr_t: level to step to (b,), nats.

    Returns:
        Gaussian over x_t: mean (b, *d), var (b, 1, ..., 1).

    Raises:
        ValueError: `logsnr_s` is not the cleaner level (looked at on the CPU only, see `ldm.core.ranges`).
    """
    check_cleaner(logsnr_s, logsnr_t)
    logsnr_s, logsnr_t = expand_like(logsnr_s, x_s), expand_like(logsnr_t, x_s)
    var = -torch.expm1(logsnr_t - logsnr_s) * (-logsnr_t).sigmoid()  # not 1 - alpha_step: cancels for small steps
    return Gaussian((logsnr_t.sigmoid() / logsnr_s.sigmoid()).sqrt() * x_s, var)


def q_posterior(x0: Latent, x_t: Latent, logsnr_s: LogSNR, logsnr_t: LogSNR) -> Gaussian:
    """Distribution of the cleaner state x_s given both ends, q(x_s | x_t, x_0), for s < t.

    With SNR = alpha_bar / (1 - alpha_bar) and c = 1 - SNR_t / SNR_s, the share of x_t's noise added after s:

        mean = sqrt(alpha_bar_s) c x_0 + sqrt(alpha_bar_t / alpha_bar_s) (sigma_s / sigma_t)^2 x_t
        var  = c sigma_s^2

    Source: lecture, "analytical q(x_{t-1}|x_t, x_0)"; Ho et al. 2020 (arXiv:2006.11239) Eq. 6-7 for s = t - 1.
    Written in log-SNR it holds for every s < t, so strided paths need no second formula. Exact at both ends: a clean
    s (logsnr_s = inf) returns x_0 with zero variance; a pure-noise t (logsnr_t = -inf) ignores x_t.

    Args:
        x0: clean latents (b, *d), or the denoiser's estimate of them.
        x_t: noisy latents (b, *d) at level t.
        logsnr_s: level to step to (b,), nats. Must exceed `logsnr_t`.
        logsnr_t: level of `x_t` (b,), nats.

    Returns:
        Gaussian over x_s: mean (b, *d), var (b, 1, ..., 1).

    Raises:
        ValueError: `logsnr_s` is not the cleaner level (looked at on the CPU only, see `ldm.core.ranges`).
    """
    check_alike(x0=x0, x_t=x_t)
    check_cleaner(logsnr_s, logsnr_t)
    logsnr_s, logsnr_t = expand_like(logsnr_s, x0), expand_like(logsnr_t, x0)
    alpha_bar_s, alpha_bar_t = logsnr_s.sigmoid(), logsnr_t.sigmoid()
    var_s, var_t = (-logsnr_s).sigmoid(), (-logsnr_t).sigmoid()  # not 1 - alpha_bar: cancels near t = 0
    c = -torch.expm1(logsnr_t - logsnr_s)
    mean = alpha_bar_s.sqrt() * c * x0 + (alpha_bar_t / alpha_bar_s).sqrt() * (var_s / var_t) * x_t
    return Gaussian(mean, c * var_s)
