"""Learning a noise schedule for a fixed denoiser: the ends by the bound, the interior by the variance of its estimate.

The continuous bound depends on the two ends alone, so the interior is free to make the estimate from one random level
steady. Source: Kingma et al. 2021 (arXiv:2107.00630) sections 5 and 6, appendices H and I.2.

Their gradients run through the denoiser a second time. Here neither does, whatever the denoiser is, because both
expectations are integrals over the level of a function that the schedule does not enter:

    sum of the terms  = int_{logsnr_min}^{logsnr_max} f(logsnr),                f = 1/2 SNR E|x_0 - x0_hat|^2
    E[estimate^2]     = int_{logsnr_min}^{logsnr_max} h(logsnr) |d logsnr / dt|,  h = 1/4 SNR^2 E|x_0 - x0_hat|^4

The first has the derivatives f at the ends; in the second the schedule is only a factor of the integrand, whose
samples may come from any levels: those of the current step, or a pool that was measured once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent, LogSNR, PerImage
from ldm.denoiser import Denoiser
from ldm.nets.gamma import GammaNet
from ldm.process.conditionals import q_sample
from ldm.process.elbo import ElboTerms, denoise_term_continuous, first_decoder, prior_term, recon_term
from ldm.process.schedule import Schedule
from ldm.process.times import LowDiscrepancy

Draw = Callable[[int], tuple[Denoiser, Latent]]
"""Step number to a denoiser with its conditions bound and the clean latents (b, *d) that belong to them."""

Draws = Float[Tensor, "b draws"]


@dataclass(frozen=True, kw_only=True)
class LearnSpec:
    """How long and how fast.

    Attributes:
        steps: of Adam.
        rate: its learning rate for the interior.
        end_rate: its learning rate for the two ends, nats a step.
        ends: train the ends too. Leave it off where a network has never seen the levels beyond them.
    """

    steps: int = 300
    rate: float = 0.05
    end_rate: float = 0.05
    ends: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps} is below 1; a few hundred are usual")
        for name in ("rate", "end_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive number; 0.05 is usual")


@dataclass(frozen=True, eq=False)
class Pool:
    """Errors of a denoiser at levels drawn from a known density: all that the interior is learned from.

    Attributes:
        logsnr: levels (n,), nats.
        density: at which they were drawn, per nat (n,), positive.
        error: |x_0 - x0_hat|^2 at each, summed over the latent (n,).
    """

    logsnr: LogSNR
    density: PerImage
    error: PerImage


def learn_schedule(gamma: GammaNet, draw: Draw, noise: NoiseStream, spec: LearnSpec) -> None:
    """Train `gamma` on fresh latents, one noisy copy of each a step, and two more where the ends are learned.

    Args:
        gamma: trained in place.
        draw: gives the denoiser and the latents of a step. The denoiser is run without gradients.
        noise: one stream.
        spec: how long and how fast.

    Raises:
        ValueError: the ends crossed.
    """
    groups = [{"params": gamma.interior(), "lr": spec.rate}]
    groups += [{"params": gamma.ends(), "lr": spec.end_rate}] if spec.ends else []
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for step in range(spec.steps):
        denoise, x0 = draw(step)
        eps = noise.normal((1, *x0.shape), like=x0[None])[0]
        t = LowDiscrepancy().draw(len(x0), noise, gamma).to(device=x0.device, dtype=_wide(x0))
        pool = measure_at(denoise, x0, eps, t, gamma)
        loss = log_second_moment(gamma, pool)
        if spec.ends:
            loss = loss + bound_at_ends(gamma, denoise, x0, eps, pool).total.mean() / x0[0].numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if not gamma.logsnr_max > gamma.logsnr_min:
            raise ValueError(f"end_rate: at {spec.end_rate} the ends crossed in step {step}; lower it or hold the ends")


def learn_interior(gamma: GammaNet, pool: Pool, spec: LearnSpec) -> None:
    """Train the interior of `gamma` on a pool that was measured once: no further run of the denoiser.

    Args:
        gamma: trained in place, between the ends that it has.
        pool: levels between those ends. A few hundred suffice for the default width.
        spec: how long and how fast; its ends are not looked at.
    """
    optimiser = torch.optim.Adam(gamma.interior(), lr=spec.rate, betas=(0.9, 0.99))
    for _ in range(spec.steps):
        optimiser.zero_grad()
        log_second_moment(gamma, pool).backward()
        optimiser.step()


@torch.no_grad()
def measure_at(denoise: Denoiser, x0: Latent, eps: Latent, t: PerImage, schedule: Schedule) -> Pool:
    """The denoiser's errors at the levels of times `t`, uniform in [0, 1] (b,), one noisy copy of each latent."""
    level = schedule(t)
    return Pool(level, -1 / schedule.slope(t), _error(denoise, x0, eps, level))


def log_second_moment(gamma: GammaNet, pool: Pool) -> Float[Tensor, ""]:
    """log E[estimate^2] of the denoising terms under `gamma`, as a function of its interior alone.

    Its minimum is where the variance is least, since the mean does not depend on the interior: at a slope
    proportional to 1 / sqrt(h).
    """
    term = 0.5 * pool.logsnr.exp() * pool.error
    span = (gamma.logsnr_max - gamma.logsnr_min).detach().to(pool.logsnr.dtype)
    height = (gamma.logsnr_max.detach().to(pool.logsnr.dtype) - pool.logsnr) / span
    slope = span * gamma.shape_slope(gamma.shape_inverse(height))
    return (term**2 / pool.density * slope).mean().log()


def bound_at_ends(gamma: GammaNet, denoise: Denoiser, x0: Latent, eps: Latent, pool: Pool) -> ElboTerms:
    """The negative bound (b,), nats, whose gradient in the two ends of `gamma` is exact in expectation.

    The latent's own density is bounded: its cleanest level is decoded by `first_decoder`.

    Args:
        pool: one level of each latent, drawn with `gamma`.
    """
    first, last = (end.to(_wide(x0)).expand(len(x0)) for end in gamma.ends())
    denoising = 0.5 * pool.logsnr.exp() * pool.error / pool.density
    for end, sign in ((first, 1), (last, -1)):
        held = end.detach()
        with torch.no_grad():
            density = 0.5 * held.exp() * _error(denoise, x0, eps, held)
        denoising = denoising + sign * density * (end - held)  # adds nothing but its gradient
    recon = recon_term(x0, first_decoder(q_sample(x0, eps, first), first))
    return ElboTerms(recon, prior_term(x0, last), denoising)


@torch.no_grad()
def single_level_draws(denoise: Denoiser, x0: Latent, schedule: Schedule, noise: NoiseStream, draws: int) -> Draws:
    """Estimates of the denoising terms of every latent from one independent uniform time each, nats.

    Equal streams give equal times and noise, so that schedules can be compared on the same random numbers.

    Args:
        noise: one stream per latent.
        draws: estimates of each latent.
    """
    columns = []
    for _ in range(draws):
        t = noise.uniform((len(x0),), like=torch.empty(0, dtype=_wide(x0), device=x0.device))
        level, eps = schedule(t), noise.normal(x0.shape, like=x0)
        x0_hat = denoise(q_sample(x0, eps, level), level).x0
        columns.append(denoise_term_continuous(x0, x0_hat, level, schedule.slope(t)))
    return torch.stack(columns, dim=1).cpu().double()


def variance(draws: Draws) -> tuple[float, float]:
    """Variance of one draw over latents, levels and noise, and its standard error by a jackknife over latents.

    Raises:
        ValueError: fewer than two latents.
    """
    return _jackknife(lambda kept: draws[kept].var(), len(draws))


def variance_ratio(draws: Draws, reference: Draws) -> tuple[float, float]:
    """Variance of `draws` over that of `reference`, of the same latents, and its standard error by a jackknife."""
    return _jackknife(lambda kept: draws[kept].var() / reference[kept].var(), len(draws))


def _jackknife(statistic: Callable[[Tensor], Tensor], n: int) -> tuple[float, float]:
    """A statistic of rows, and its standard error from leaving out each in turn."""
    if n < 2:
        raise ValueError(f"draws: {n} latent; a standard error needs 2 or more")
    rows = torch.arange(n)
    left = torch.stack([statistic(rows[rows != i]) for i in range(n)])
    error = ((n - 1) / n * ((left - left.mean()) ** 2).sum()).sqrt()
    return statistic(rows).item(), error.item()


def _error(denoise: Denoiser, x0: Latent, eps: Latent, level: LogSNR) -> PerImage:
    return ((denoise(q_sample(x0, eps, level), level).x0 - x0) ** 2).flatten(1).sum(1)


def _wide(x0: Latent) -> torch.dtype:
    return torch.promote_types(x0.dtype, torch.float32)
