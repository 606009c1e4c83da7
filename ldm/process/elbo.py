"""The evidence lower bound, term by term, as losses in nats (so -log p(x_0) <= total on average).

    -log p(x_0) <= recon + prior + sum_{t > first} denoise_t

Source: lecture, "VDM: Loss terms"; Ho et al. 2020 (arXiv:2006.11239) Eq. 5. With one step (T = 1) the sum is empty
and the other two terms are a variational autoencoder's.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.core.gaussian import Gaussian, discretised_log_prob, kl, log_prob, standard_normal_like
from ldm.core.ranges import check_alike, check_cleaner, check_falling, check_finite, check_is_not, check_levels
from ldm.core.shapes import Latent, LogSNR, PerImage, expand_like


@dataclass(frozen=True, eq=False)
class ElboTerms:
    """The three terms of the bound per image (b,), nats, summed over the dimensions of x_0.

    Args:
        recon: -log p(x_0 | x_first).
        prior: KL(q(x_1 | x_0) || N(0, I)).
        denoise: all the denoising terms together, or an unbiased estimate of their sum.
    """

    recon: PerImage
    prior: PerImage
    denoise: PerImage

    @property
    def total(self) -> PerImage:
        """The negative bound (b,), nats."""
        return self.recon + self.prior + self.denoise

    def bits_per_dim(self, n: int) -> PerImage:
        """The negative bound (b,) in bits for each of the `n` dimensions of x_0.

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"n: {n} dimensions; give 1 or more")
        return self.total / (n * math.log(2))


def prior_term(x0: Latent, logsnr_1: LogSNR) -> PerImage:
    """KL(q(x_1 | x_0) || N(0, I)) at the noisiest level (b,), nats. Zero at logsnr_1 = -inf, infinite at clean data.

    Raises:
        ValueError: a level is not a number (looked at on the CPU only).
    """
    check_levels(logsnr_1)
    level = expand_like(logsnr_1, x0)
    noised = Gaussian(level.sigmoid().sqrt() * x0, (-level).sigmoid())
    return kl(noised, standard_normal_like(x0))


def denoise_term(x0: Latent, x0_hat: Latent, logsnr_s: LogSNR, logsnr_t: LogSNR, var: Tensor | None = None) -> PerImage:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) for one step t to s (b,), nats.

    p is Gaussian with the mean of q at x0_hat. With the variance of q too (`var` None),

        1/2 (SNR_s - SNR_t) |x_0 - x0_hat|^2

    and in general, with beta = the variance of q and m = sqrt(alpha_bar_s) (1 - SNR_t / SNR_s),

        1/2 sum [ log(var / beta) - 1 + beta / var + m^2 (x_0 - x0_hat)^2 / var ]

    Source: lecture, interpretation I; Kingma et al. 2021 (arXiv:2107.00630) section 4.

    Args:
        x0: clean latents (b, *d).
        x0_hat: the denoiser's estimate from x_t (b, *d).
        logsnr_s: level to step to (b,), nats, finite: the step to clean data is `recon_term`'s.
        logsnr_t: level of x_t (b,), nats, below `logsnr_s`.
        var: variance of p, (b, *d) or broadcasting to it, positive; None is the variance of q.

    Raises:
        ValueError: `logsnr_s` is infinite or not the cleaner level, or a variance is negative (looked at on the CPU
            only, see `ldm.core.ranges`).
    """
    check_alike(x0=x0, x0_hat=x0_hat)
    check_finite("logsnr_s", logsnr_s, hint="the step to clean data is recon_term's")
    check_cleaner(logsnr_s, logsnr_t)
    level_s, level_t = expand_like(logsnr_s, x0), expand_like(logsnr_t, x0)
    share = -torch.expm1(level_t - level_s)
    if var is None:
        gain = 0.5 * share * level_s.exp()
        return (gain * (x0 - x0_hat) ** 2).flatten(1).sum(1)
    scale = level_s.sigmoid().sqrt() * share
    return kl(Gaussian(scale * x0, share * (-level_s).sigmoid()), Gaussian(scale * x0_hat, var))


def denoise_term_continuous(x0: Latent, x0_hat: Latent, logsnr: LogSNR, slope: PerImage) -> PerImage:
    """The denoising terms of infinitely many steps, as a density over t (b,), nats: its mean over t is their sum.

        -1/2 dSNR/dt |x_0 - x0_hat|^2 = -1/2 SNR slope |x_0 - x0_hat|^2

    The mean depends on the schedule through its ends alone. Source: Kingma et al. 2021 (arXiv:2107.00630) section 5.

    Args:
        x0: clean latents (b, *d).
        x0_hat: the denoiser's estimate from x_t (b, *d).
        logsnr: level of x_t (b,), nats.
        slope: d logsnr / dt at the level (b,), negative.

    Raises:
        ValueError: a level is not a number, or a slope is positive (looked at on the CPU only).
    """
    check_alike(x0=x0, x0_hat=x0_hat)
    check_falling(logsnr, slope)
    return -0.5 * logsnr.exp() * slope * ((x0 - x0_hat) ** 2).flatten(1).sum(1)


def first_decoder(x_first: Latent, logsnr: LogSNR) -> Gaussian:
    """p(x_0 | x_first) without a network: what the cleanest level alone says, N(x_first / sqrt(alpha_bar), 1 / SNR).

    The likelihood q(x_first | x_0) read as a density of x_0: right when the level is so clean that the data are flat
    over its width. Source: Kingma et al. 2021 (arXiv:2107.00630) section 3.3, there for pixels.

    Raises:
        ValueError: a level is pure noise (-inf), which says nothing of x_0, or not a number.
    """
    check_is_not(-math.inf, logsnr, hint="pure noise says nothing of x_0")
    level = expand_like(logsnr, x_first)
    return Gaussian(x_first / level.sigmoid().sqrt(), (-level).exp())


def recon_term(x0: Latent, decoder: Gaussian, levels: int | None = None) -> PerImage:
    """-log p(x_0 | x_first) under a Gaussian decoder (b,), nats.

    Args:
        x0: clean latents (b, *d); with `levels`, pixels in [-1, 1].
        decoder: p(x_0 | x_first), e.g. `first_decoder`, or a denoiser's estimate with a variance.
        levels: how many values a pixel has (256 for 8 bits); the term is then a probability, not a density.

    Raises:
        ValueError: with `levels`, fewer than 2 or a pixel outside [-1, 1].
    """
    return -log_prob(decoder, x0) if levels is None else -discretised_log_prob(decoder, x0, levels)
