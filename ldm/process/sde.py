"""The score-based view: forward and reverse stochastic differential equations, and the flow with the same marginals.

    x_t = m x_0 + s eps        dx = f dt + g dw        f = (d log m / dt) x,   g^2 = ds^2/dt - 2 (d log m / dt) s^2

Two choices of m and s carry the same information at the same log-SNR, m^2 / s^2 = SNR: variance preserving (VP), the
process of the rest of this project, and variance exploding (VE), that of denoising score matching and of EDM. One is
the other, rescaled: x_ve = x_vp / sqrt(alpha_bar). So a denoiser, a function of x_vp and the level, serves both:

    x0_hat_ve(x_ve, logsnr) = x0_hat(to_vp(x_ve, logsnr), logsnr)

Source: Song et al. 2021 (arXiv:2011.13456) section 3 and appendices B to D; for the two as one, Karras et al. 2022
(arXiv:2206.00364) appendix B.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from ldm.core.ranges import check_is_not, check_levels
from ldm.core.shapes import Latent, LogSNR, PerImage, expand_like
from ldm.process.schedule import Schedule


class Marginal(NamedTuple):
    """q(x_t | x_0) = N(mean_coefficient x_0, std^2 I), each (b,)."""

    mean_coefficient: PerImage
    std: PerImage


@runtime_checkable
class SDE(Protocol):
    """dx = drift dt + sqrt(diffusion_squared) dw over the time t in [0, 1] of a schedule, 0 = data, 1 = noise.

    The schedule refuses times outside (on the CPU only, see `ldm.core.ranges`).

    Attributes:
        schedule: level as a function of time.
    """

    schedule: Schedule

    def marginal(self, t: PerImage) -> Marginal:
        """Mean coefficient and standard deviation of q(x_t | x_0) at times t (b,)."""
        ...

    def drift(self, x: Latent, t: PerImage) -> Latent:
        """f(x, t) (b, *d), per unit of time."""
        ...

    def diffusion_squared(self, t: PerImage) -> PerImage:
        """g(t)^2 (b,), variance per unit of time, positive."""
        ...

    def score(self, x0_hat: Latent, x: Latent, t: PerImage) -> Latent:
        """grad log q(x_t) = (m x0_hat - x) / s^2 from the best estimate x0_hat = E[x_0 | x_t] (b, *d).

        Tweedie's formula (lecture, interpretation III). Undefined at clean data, where s = 0.
        """
        mean_coefficient, std = (expand_like(v, x) for v in self.marginal(t))
        return (mean_coefficient * x0_hat - x) / std**2

    def reverse_drift(self, x: Latent, score: Latent, t: PerImage) -> Latent:
        """f - g^2 score (b, *d): with it and the same g the equation, run from t = 1 to 0, has the same marginals.

        Source: Anderson 1982; Song et al. 2021 (arXiv:2011.13456) Eq. 6. Per unit of time t, which falls.
        """
        return self.drift(x, t) - expand_like(self.diffusion_squared(t), x) * score

    def ode_drift(self, x: Latent, score: Latent, t: PerImage) -> Latent:
        """f - g^2 score / 2 (b, *d): the probability flow, dx = ode_drift dt without noise, has the same marginals.

        Source: Song et al. 2021 (arXiv:2011.13456) Eq. 13.
        """
        return self.drift(x, t) - 0.5 * expand_like(self.diffusion_squared(t), x) * score


@dataclass(frozen=True, kw_only=True)
class VariancePreserving(SDE):
    """m = sqrt(alpha_bar), s = sigma; unit variance stays unit variance.

        f = -1/2 beta x,    g^2 = beta = -sigma^2 dlogsnr/dt

    With the linear-beta schedule this is DDPM in continuous time. g^2 is finite wherever the schedule's slope is.

    Source: Song et al. 2021 (arXiv:2011.13456) Eq. 11, in log-SNR: Kingma et al. 2021 (arXiv:2107.00630) appendix A.

    Args:
        schedule: level as a function of time.
    """

    schedule: Schedule

    def marginal(self, t: PerImage) -> Marginal:
        """sqrt(alpha_bar) and sigma."""
        logsnr = self.schedule(t)
        return Marginal(logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt())

    def drift(self, x: Latent, t: PerImage) -> Latent:
        """-1/2 beta x: towards zero, so that the growing noise does not add to the variance."""
        return -0.5 * expand_like(self.diffusion_squared(t), x) * x

    def diffusion_squared(self, t: PerImage) -> PerImage:
        """beta(t)."""
        return -(-self.schedule(t)).sigmoid() * self.schedule.slope(t)


@dataclass(frozen=True, kw_only=True)
class VarianceExploding(SDE):
    """m = 1, s = sigma_ve = exp(-logsnr / 2); the data stay where they are under growing noise.

        f = 0,    g^2 = d sigma_ve^2 / dt = -sigma_ve^2 dlogsnr/dt

    s is infinite at pure noise (logsnr = -inf), which this process only approaches.

    Source: Song et al. 2021 (arXiv:2011.13456) Eq. 9.

    Args:
        schedule: level as a function of time.
    """

    schedule: Schedule

    def marginal(self, t: PerImage) -> Marginal:
        """1 and sigma_ve."""
        logsnr = self.schedule(t)
        return Marginal(torch.ones_like(logsnr), torch.exp(-logsnr / 2))

    def drift(self, x: Latent, t: PerImage) -> Latent:
        """Zero."""
        return torch.zeros_like(x)

    def diffusion_squared(self, t: PerImage) -> PerImage:
        """Growth of the noise's variance."""
        return -torch.exp(-self.schedule(t)) * self.schedule.slope(t)


def to_ve(x_vp: Latent, logsnr: LogSNR) -> Latent:
    """x_vp / sqrt(alpha_bar) (b, *d): the same noisy latents as the variance-exploding process has them.

    Scores change the other way: score_ve = sqrt(alpha_bar) score_vp.

    Raises:
        ValueError: a level is pure noise (-inf), which this process never reaches, or not a number (on the CPU only).
    """
    check_is_not(-math.inf, logsnr, hint="the exploding process never is pure noise")
    return (x_vp / expand_like(logsnr, x_vp).sigmoid().sqrt()).to(x_vp.dtype)


def to_vp(x_ve: Latent, logsnr: LogSNR) -> Latent:
    """sqrt(alpha_bar) x_ve (b, *d): the inverse of `to_ve`, what a denoiser of this project wants to see.

    Raises:
        ValueError: a level is not a number (on the CPU only).
    """
    check_levels(logsnr)
    return (expand_like(logsnr, x_ve).sigmoid().sqrt() * x_ve).to(x_ve.dtype)


def flow_velocity(x0_hat: Latent, x_t: Latent, logsnr: LogSNR) -> Latent:
    """The probability flow of the variance-preserving process with the level itself as time, dx_t / dlogsnr (b, *d).

        dx_t / dlogsnr = 1/2 sqrt(alpha_bar) (x0_hat - sqrt(alpha_bar) x_t)

    This is `VariancePreserving.ode_drift` over the schedule's slope, which cancels: the flow between two levels is the
    same for every schedule. Finite at both ends: 0 at pure noise, (x0_hat - x_t) / 2 at clean data.

    Source: Song et al. 2021 (arXiv:2011.13456) Eq. 13 with Tweedie's formula.

    Args:
        x0_hat: the denoiser's estimate from x_t (b, *d).
        x_t: noisy latents (b, *d).
        logsnr: their level (b,), nats.

    Raises:
        ValueError: a level is not a number (on the CPU only).
    """
    check_levels(logsnr)
    amplitude = expand_like(logsnr, x_t).sigmoid().sqrt().to(x_t.dtype)
    return 0.5 * amplitude * (x0_hat - amplitude * x_t)
