"""Classifier guidance: a denoiser steered by the gradient of a classifier that understands noisy latents."""

import math
from collections.abc import Callable

import torch

from ldm.core.shapes import Latent, LogSNR, PerImage, expand_like
from ldm.denoiser import Denoised, Denoiser

LogProb = Callable[[Latent, LogSNR], PerImage]  # log p(y | x_t) of each image's own y, nats, differentiable in x_t


def classifier_guided(denoise: Denoiser, log_prob: LogProb, scale: float) -> Denoiser:
    """Add the gradient of a classifier to the score:

        score = score(x_t) + scale grad_x log p(y | x_t)

    in the lecture's convention, scale = gamma: 0 is `denoise` itself, and 1 samples p(x | y) by Bayes' rule if both are
    exact, for then the sum is grad log p(x_t | y). More favours what the classifier is surest of. By Tweedie's formula,
    score = (sqrt(alpha_bar) x0_hat - x_t) / sigma^2, that is a shift of the clean estimate by

        x0_hat + scale sigma^2 / sqrt(alpha_bar) grad_x log p(y | x_t)

    which is where it is applied. The factor is exp(-logsnr / 2) sigma, 0 at clean data. Towards pure noise it grows
    without bound while a true gradient vanishes with sqrt(alpha_bar); a trained one does not quite, so leave the
    noisiest levels out (`on_interval`). At pure noise itself (logsnr = -inf) no guidance is given.

    `denoise` may be guided already: `classifier_free` inside gives the sum of both. `var_fraction` is passed on.

    One evaluation of the classifier and its gradient beside that of `denoise`, which is evaluated in the caller's mode.
    The gradient is switched on here, also under `torch.no_grad` and `torch.inference_mode`.

    Source: lecture, "Classifier guidance"; Song et al. 2021 (arXiv:2011.13456) Eq. 14; Dhariwal and Nichol 2021
    (arXiv:2105.05233) section 4.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        log_prob: (x_t, logsnr) -> log p(y | x_t) (b,), nats, each image by itself, e.g. `log_prob_of(net, labels)`.
        scale: strength, 0 or more.

    Returns:
        A denoiser.

    Raises:
        ValueError: `scale` is negative or not finite; at the call, if the log-probability has no gradient.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale: {scale} is not a number >= 0; to move away from a class give log(1 - p) as log_prob")
    if scale == 0:
        return denoise

    def guided(x_t: Latent, logsnr: LogSNR) -> Denoised:
        plain = denoise(x_t, logsnr)
        factor = scale * (-logsnr).sigmoid() * logsnr.sigmoid().rsqrt()
        factor = torch.where(logsnr == -math.inf, 0.0, factor)  # else infinity times a gradient of zero
        shift = expand_like(factor, x_t) * _gradient(log_prob, x_t, logsnr)
        return Denoised(plain.x0 + shift.to(plain.x0.dtype), plain.var_fraction)

    return guided


def _gradient(log_prob: LogProb, x_t: Latent, logsnr: LogSNR) -> Latent:
    """grad_x log p(y | x_t) (b, *d); tensors of an inference mode around it are copied into ordinary ones."""
    with torch.inference_mode(False), torch.enable_grad():
        at = x_t.detach().clone().requires_grad_(True)
        total = log_prob(at, logsnr.clone()).sum()
        if not total.requires_grad:
            raise ValueError("log_prob: it carries no gradient; compute it from x_t, without torch.no_grad")
        return torch.autograd.grad(total, at)[0]
