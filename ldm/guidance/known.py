"""Part of the clean latent is known: a denoiser that keeps it and draws the rest, for any model (inpainting)."""

import torch
from torch import Tensor

from ldm.core.shapes import Latent, LogSNR
from ldm.denoiser import Denoised, Denoiser


def keep_known(denoise: Denoiser, known: Latent, mask: Tensor) -> Denoiser:
    """Replace the estimate by the truth where it is known:

        x0_hat = mask x0_hat + (1 - mask) known

    Every sampler makes its step from x0_hat, so the known part moves along the exact path q(x_s | x_t, known) of that
    sampler, and the network sees it with the noise of the level, as in training. Start the known part there as well:
    from `q_sample(known, eps, level)`, not from noise alone, and the deterministic samplers keep eps to the end.

    For parts that are independent of each other this draws from p(rest | known) exactly. Otherwise the rest is drawn
    given what each level says of the known part, which is less than what is known; `ldm.samplers.resampled` closes
    that gap.

    Source: Song et al. 2021 (arXiv:2011.13456) appendix I.2 (imputation); on x_0, Choi et al. 2021 (arXiv:2108.02938).

    Args:
        denoise: (x_t, logsnr) -> Denoised, of b images; may be guided already.
        known: the clean latent (b, *d); where `mask` is 1 its values do not matter, but must be finite.
        mask: 1 where to draw, 0 where to keep, between them for a mixture; broadcasts to `known`.

    Returns:
        A denoiser of the same b images; `denoise` itself where the mask is 1, to the bit.

    Raises:
        ValueError: the mask leaves [0, 1], or does not broadcast to `known`.
    """
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask: values outside [0, 1]; 1 draws and 0 keeps")
    try:
        share = mask.expand_as(known)
    except RuntimeError as error:
        raise ValueError(f"mask: {tuple(mask.shape)} does not broadcast to {tuple(known.shape)}") from error
    drawn, kept = share == 1, share == 0

    def keeping(x_t: Latent, logsnr: LogSNR) -> Denoised:
        free = denoise(x_t, logsnr)
        mixed = torch.lerp(known.to(free.x0), free.x0, share.to(free.x0))
        exact = torch.where(drawn, free.x0, torch.where(kept, known.to(free.x0), mixed))
        return Denoised(exact, free.var_fraction)

    return keeping
