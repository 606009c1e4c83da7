"""The variance of a reverse step p(x_s | x_t), s < t: two bounds, a network's choice between them, and the best number.

Every function takes levels in nats, of any one shape: a scalar for the whole batch, or one per image.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.shapes import Latent, LogSNR, PerImage, expand_like
from ldm.process.conditionals import q_posterior, q_step
from ldm.process.grid import TimeGrid
from ldm.process.prediction import from_x0

Levels = Float[Tensor, "*n"]

TOLERANCE = 1e-5  # nats within which a level is an entry of a table: a float32 level is off by less


def posterior(logsnr_s: Levels, logsnr_t: Levels) -> Levels:
    """beta-tilde, the variance of q(x_s | x_t, x_0): (1 - SNR_t / SNR_s) sigma_s^2.

    The best choice if the data is one point, and a lower bound for any data. Zero for a clean s (logsnr_s = inf).
    Source: Ho et al. 2020 (arXiv:2006.11239) section 3.2.
    """
    nothing = torch.zeros_like(logsnr_s).reshape(-1, 1)
    q = q_posterior(nothing, nothing, logsnr_s.reshape(-1), logsnr_t.reshape(-1))
    return q.var.reshape(logsnr_s.shape)


def upper(logsnr_s: Levels, logsnr_t: Levels) -> Levels:
    """beta, the variance of q(x_t | x_s): (1 - SNR_t / SNR_s) sigma_t^2.

    The best choice if the data is N(0, I), and an upper bound for data with at most that variance.
    Source: Ho et al. 2020 (arXiv:2006.11239) section 3.2.
    """
    nothing = torch.zeros_like(logsnr_s).reshape(-1, 1)
    return q_step(nothing, logsnr_s.reshape(-1), logsnr_t.reshape(-1)).var.reshape(logsnr_s.shape)


def learned_range(fraction: Latent, logsnr_s: Levels, logsnr_t: Levels) -> Latent:
    """Between `posterior` (fraction 0) and `upper` (fraction 1), even in the logarithm:

        var = exp(fraction log beta + (1 - fraction) log beta-tilde) = beta (beta-tilde / beta)^(1 - fraction)

    A fraction outside of [0, 1] is taken as it is: the formula goes on, and stays positive. For a clean s
    (logsnr_s = inf) the variance is 0 at every fraction below 1.

    Source: Nichol and Dhariwal 2021 (arXiv:2102.09672) Eq. 15.

    Args:
        fraction: `Denoised.var_fraction` (b, *d).
        logsnr_s: level to step to, a scalar or (b,), nats.
        logsnr_t: level to leave, alike.

    Returns:
        Variances (b, *d), in the dtype of `fraction`.
    """
    high = _over(upper(logsnr_s, logsnr_t), fraction)
    ratio = _over((-logsnr_s).sigmoid() / (-logsnr_t).sigmoid(), fraction)  # beta-tilde / beta
    return high * ratio ** (1 - fraction)


def analytic_bounds(logsnr_s: Levels, logsnr_t: Levels, *, eta: float = 1.0) -> tuple[Levels, Levels]:
    """The least and the largest value that the best variance of a step can take, whatever the data.

        lower = lambda^2 = eta^2 beta-tilde
        upper = lambda^2 + (sigma_t / sqrt(alpha_step) - sqrt(sigma_s^2 - lambda^2))^2

    with alpha_step = alpha_bar_t / alpha_bar_s. For eta = 1 the upper one is beta / alpha_step. Reached for data that
    is one point, and for data so wide that x_t says nothing of the noise in it.

    Source: Bao et al. 2022 (arXiv:2201.06503) Theorem 2, without the bound that asks for bounded data.

    Args:
        logsnr_s: level to step to, nats.
        logsnr_t: level to leave, finite.
        eta: 1 is DDPM, 0 is deterministic DDIM; as for `ldm.samplers.ddim`.

    Returns:
        Both, in the shape of the levels.

    Raises:
        ValueError: eta is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: {eta} is outside [0, 1]; 1 is DDPM, 0 is deterministic DDIM")
    share = -torch.expm1(logsnr_t - logsnr_s)
    # (the root of the second term) = sigma_ve_t d x_s / d x0_hat: expm1, since the terms nearly cancel in a short step
    pull = -logsnr_s.sigmoid().sqrt() * torch.expm1((logsnr_t - logsnr_s) / 2 + 0.5 * torch.log1p(-(eta**2) * share))
    lower = eta**2 * posterior(logsnr_s, logsnr_t)
    return lower, lower + pull**2 * torch.exp(-logsnr_t)


def analytic(gamma: Levels, logsnr_s: Levels, logsnr_t: Levels, *, eta: float = 1.0) -> Levels:
    """The single number that is the best variance for a step: the mean of Var(x_s | x_t) over x_t and over elements.

        var = lower + (upper - lower) (1 - gamma)    (`analytic_bounds`)

    It is exact if gamma comes from the true denoiser, and it is best in the sense of KL among steps whose mean is the
    usual one. gamma outside of [0, 1], as a noisy estimate may be, gives the bound itself. Where x_t is nearly all
    noise 1 - gamma is about SNR_t: there an estimate of gamma must be that precise to say more than the bounds do.

    Source: Bao et al. 2022 (arXiv:2201.06503) Theorem 1 and Eq. 9; their Gamma_t is gamma / sigma_t^2.

    Args:
        gamma: E |eps_hat(x_t)|^2 / d at level t, the mean of `noise_power`; 1 - gamma is E |eps - eps_hat|^2 / d.
        logsnr_s: level to step to, nats.
        logsnr_t: level to leave, finite.
        eta: as for `analytic_bounds`: its step keeps 1 - eta^2 of the posterior's variance in x_t's own noise.

    Returns:
        Variances, in the shape of the levels.
    """
    lower, highest = analytic_bounds(logsnr_s, logsnr_t, eta=eta)
    return lower + (highest - lower) * (1 - gamma).clamp(0, 1)


def noise_power(x0_hat: Latent, x_t: Latent, logsnr: LogSNR) -> PerImage:
    """|eps_hat|^2 / d of each image (b,), whose mean over data and noise is the gamma of `analytic`.

    Args:
        x0_hat: the denoiser's estimate from `x_t` (b, *d).
        x_t: noisy latents (b, *d).
        logsnr: their level (b,), nats, finite.
    """
    return from_x0("eps", x0_hat, x_t, logsnr).square().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class AnalyticVariance:
    """A measured table of gamma, from which `analytic` gives the variance of a step between any two levels.

    Only the level that is left has to be in the table. Nothing is interpolated: an average over the data at one level
    is no promise about another, and a grid made from the schedule that was measured meets its levels exactly.

    Args:
        logsnr: levels, nats, finite and strictly falling, as t rises.
        gamma: E |eps_hat|^2 / d at each.
        model: content hash of the model that was measured; a table belongs to no other.

    Raises:
        ValueError: the two differ in length or are empty, a level is not finite or does not fall, or a gamma is
            negative or not finite.
    """

    logsnr: tuple[float, ...]
    gamma: tuple[float, ...]
    model: str

    def __post_init__(self) -> None:
        if not self.logsnr or len(self.logsnr) != len(self.gamma):
            raise ValueError(f"gamma: {len(self.gamma)} values for {len(self.logsnr)} levels; give one for each")
        for level, gamma in zip(self.logsnr, self.gamma, strict=True):
            if not math.isfinite(level):
                raise ValueError(f"logsnr: {level} is not finite; at pure noise eps_hat says nothing, leave it out")
            if not 0 <= gamma < math.inf:
                raise ValueError(f"gamma: {gamma} at {level} nats is not a number >= 0; measure it again")
        for cleaner, noisier in pairwise(self.logsnr):
            if not noisier < cleaner:
                raise ValueError(f"logsnr: {cleaner}, {noisier} do not fall; put the cleanest level first")

    def __call__(self, logsnr_s: Levels, logsnr_t: Levels, *, eta: float = 1.0) -> Levels:
        """`analytic` for steps between levels; reads `logsnr_t` back, so levels on the CPU never stop a device.

        Raises:
            ValueError: an entry of `logsnr_t` is not in the table.
        """
        gamma = [self.gamma_at(level) for level in logsnr_t.reshape(-1).tolist()]
        return analytic(logsnr_t.new_tensor(gamma).reshape(logsnr_t.shape), logsnr_s, logsnr_t, eta=eta)

    def gamma_at(self, logsnr: float) -> float:
        """gamma at a level of the table, to 1e-5 nats.

        Raises:
            ValueError: there is no such level.
        """
        after = bisect_left(self.logsnr, -logsnr, key=lambda level: -level)
        near = min(
            (i for i in (after - 1, after) if 0 <= i < len(self.logsnr)), key=lambda i: abs(self.logsnr[i] - logsnr)
        )
        if not abs(self.logsnr[near] - logsnr) <= TOLERANCE:
            raise ValueError(
                f"logsnr: {logsnr} nats is not in the variance table (nearest {self.logsnr[near]}); use levels that"
                " were measured, such as those of spacing 'tuned', or measure more with tune_sampler.py --levels"
            )
        return self.gamma[near]

    def check(self, grid: TimeGrid) -> None:
        """Refuse a grid that needs a level outside of the table. A step to clean data draws nothing and needs none.

        Raises:
            ValueError: names the first such level.
        """
        for logsnr_t, logsnr_s in pairwise(grid.logsnr.tolist()):
            if logsnr_s < math.inf:
                self.gamma_at(logsnr_t)


def _over(values: Tensor, x: Latent) -> Tensor:
    """Values of levels, to multiply `x`: a scalar stays where it is, one per image takes the axes and dtype of `x`."""
    return values if values.ndim == 0 else expand_like(values, x).to(x.dtype)
