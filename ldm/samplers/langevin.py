"""Langevin dynamics: noise and the score, which bring any latent to the distribution of a level and keep it there.

Alone, over falling levels, it is annealed Langevin sampling. As the corrector after a step of the reverse equation, the
predictor, it takes back part of the error of that step.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ldm.core.ranges import check_alike, check_not_negative
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent, PerImage
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.process.prediction import from_x0
from ldm.samplers.loop import Level, OnStep, Step, ends, exact, fresh, per_image, steps_of, times

Predictor = Literal["reverse_diffusion", "euler_maruyama"]


def langevin_step(x: Latent, score: Latent, size: PerImage, z: Latent) -> Latent:
    """x + size score + sqrt(2 size) z: one step at a fixed level.

    It leaves the distribution with that score as it is, up to O(size^2): for variance V the next one is V + size^2 / V,
    and many steps of one size end at V / (1 - size / (2 V)).

    Source: Song and Ermon 2019 (arXiv:1907.05600) Eq. 4, whose epsilon is 2 size.

    Args:
        x: latents (b, *d).
        score: grad log q(x) (b, *d).
        size: step size (b,), the unit of variance.
        z: standard normal noise (b, *d).

    Returns:
        The next latents (b, *d).

    Raises:
        ValueError: a size is negative (looked at on the CPU only), or shapes differ.
    """
    check_alike(x=x, score=score, z=z)
    check_not_negative("size", size)
    return x + times(size, score) + times((2 * size).sqrt(), z)


def signal_to_noise_size(score: Latent, z: Latent, *, snr: float, alpha_step: float | Tensor = 1.0) -> PerImage:
    """The step size by the lengths of its two parts; for alpha_step = 1 the score's is `snr` times the noise's:

        size = 2 alpha_step (snr |z| / |score|)^2

    The paper averages both lengths over a batch; here each image has its own, so that it does not depend on its
    neighbours. In hundreds of dimensions lengths hardly vary; in a few they do, and the size then depends on x so much
    that the dynamics no longer keep the distribution. No size exceeds 1, the variance of normalised latents: a score
    that is almost zero would give a step without bound.

    Source: Song et al. 2021 (arXiv:2011.13456) Algorithms 4 (alpha_step = 1) and 5.

    Args:
        score: (b, *d).
        z: the noise of the step (b, *d).
        snr: ratio of the two lengths, about 0.16.
        alpha_step: alpha_bar_t / alpha_bar_s of the predictor's step, a plain number or a scalar on the CPU.

    Returns:
        Step sizes (b,).

    Raises:
        ValueError: `snr` is outside (0, 1), or shapes differ.
    """
    _check_snr(snr)
    check_alike(score=score, z=z)
    lengths = [(v**2).flatten(1).sum(1) for v in (z, score)]
    return (2 * alpha_step * snr**2 * lengths[0] / lengths[1]).clamp(max=1.0)


def predict(
    x_t: Latent,
    x0_hat: Latent,
    logsnr_t: Level,
    logsnr_s: Level,
    *,
    predictor: Predictor = "reverse_diffusion",
    z: Latent | None = None,
) -> Latent:
    """One step of the reverse equation from level t to the cleaner level s.

    With beta = 1 - alpha_bar_t / alpha_bar_s and B = log(alpha_bar_s / alpha_bar_t), the equation's integrated rate:

        reverse_diffusion   x_s = (2 - sqrt(1 - beta)) x_t + beta score + sqrt(beta) z
        euler_maruyama      x_s = (1 + B / 2) x_t + B score + sqrt(B) z

    Both are of first order. The first undoes one step of DDPM's chain and is the more careful one in long steps.
    Neither holds in the two steps that are infinitely long: at s = inf the step is the denoiser's x0_hat, and from pure
    noise (logsnr_t = -inf), which says nothing about x_s, it is a draw of q(x_s | x0_hat).

    Source: Song et al. 2021 (arXiv:2011.13456) Algorithm 3 and appendix E; Euler-Maruyama, their Eq. 6 and 11.

    Args:
        x_t: latents (b, *d) at level t.
        x0_hat: the denoiser's estimate from them (b, *d).
        logsnr_t: level to leave, nats.
        logsnr_s: level to reach, nats, above `logsnr_t`.
        predictor: which of the two.
        z: standard normal noise (b, *d); None gives the mean.

    Returns:
        x_s (b, *d).

    Raises:
        ValueError: `predictor` is unknown, `logsnr_s` is not the cleaner level (looked at on the CPU only), or shapes
            differ.
    """
    if predictor not in get_args(Predictor):
        raise ValueError(f"predictor: {predictor!r} is unknown; use reverse_diffusion or euler_maruyama")
    check_alike(x_t=x_t, x0_hat=x0_hat, z=z)
    keep, pull, var = _coefficients(*ends(logsnr_t, logsnr_s), predictor)
    x_s = times(keep, x_t) + times(pull, x0_hat)
    return x_s if z is None else x_s + times(var.sqrt(), z)


def predictor_corrector(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    predictor: Predictor = "reverse_diffusion",
    correctors: int | float = 1,
    snr: float = 0.16,
) -> Latent:
    """Walk down the grid: at each level a predictor's step to it, then Langevin steps at it.

    1 + `correctors` evaluations and draws a step; one evaluation and no draw in a step to clean data.

    Source: Song et al. 2021 (arXiv:2011.13456) Algorithms 1, 3 and 5.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: one stream per image.
        on_step: called after each step.
        predictor: the step between levels, see `predict`.
        correctors: Langevin steps at each level, a whole number (a configuration file makes it a float); 0 is the
            predictor alone.
        snr: see `signal_to_noise_size`, in (0, 1).

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: an option is out of range, or noise is needed and there is none.
    """
    _check_snr(snr)
    count = _whole("correctors", correctors, least=0)
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, x0_hat = x, denoise(x, per_image(logsnr_t, x)).x0
        z = fresh(noise, x) if logsnr_s < math.inf else None
        x = predict(x_t, x0_hat, logsnr_t, logsnr_s, predictor=predictor, z=z)
        alpha_step = _alpha_step(exact(logsnr_t), exact(logsnr_s))
        for _ in range(count if logsnr_s < math.inf else 0):
            score, z = _score(x, denoise(x, per_image(logsnr_s, x)).x0, logsnr_s), fresh(noise, x)
            x = langevin_step(x, score, signal_to_noise_size(score, z, snr=snr, alpha_step=alpha_step), z)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, x0_hat))
    return x


def sample(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    updates: int | float = 10,
    rate: float = 0.1,
) -> Latent:
    """Annealed Langevin sampling: move the latents to the next level as they are, let them settle there, go on.

    At each level `updates` Langevin steps of size = rate sigma^2. No distribution at the level is narrower than sigma,
    so none gains more than a share of about rate / 2 of its variance. The levels must be close for a few steps to be
    enough: the paper has 100 steps at each of 10 levels.

    The paper's noise is variance exploding and its size proportional to sigma_ve^2; in this project's coordinates that
    is proportional to sigma^2, and its choice (2e-5 at sigma_ve = 0.01) is rate = 0.1. What stays as it is between
    levels is x_vp here and x_ve there: at high noise, where q hardly changes in x_vp, that is much the better start.

    The latents come with the distribution of the first level, so nothing is done there. `updates` evaluations and draws
    a step, one evaluation more in all to report the start; a step to clean data is the denoiser's x0_hat. The steps
    report the last latent of a level that was denoised.

    Source: lecture, "Enhancements of VDM" (Langevin dynamics); Song and Ermon 2019 (arXiv:1907.05600) Algorithm 1.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: one stream per image.
        on_step: called after each step.
        updates: Langevin steps at each level, a whole number (a configuration file makes it a float), 1 or more.
        rate: size of a step in units of sigma^2, in (0, 1].

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: an option is out of range, or noise is needed and there is none.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate: {rate} is not a number in (0, 1]; 0.1 is the paper's")
    count, seen = _whole("updates", updates, least=1), None
    for index, logsnr_t, logsnr_s in steps_of(grid):
        if seen is None or logsnr_s == math.inf:
            seen = x, denoise(x, per_image(logsnr_t, x)).x0
        x_t, x0_hat = seen
        if logsnr_s == math.inf:
            x = x0_hat
        else:
            x, seen = _settled(denoise, x, logsnr_s, noise, count, rate)
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, x0_hat))
    return x


def _settled(
    denoise: Denoiser, x: Latent, logsnr: float, noise: NoiseStream | None, count: int, rate: float
) -> tuple[Latent, tuple[Latent, Latent]]:
    """`x` after `count` Langevin steps at a level, and the last latent that was denoised there with its x0_hat."""
    level = per_image(logsnr, x)
    size, seen = rate * (-level).sigmoid(), (x, x)
    for _ in range(count):
        seen = x, denoise(x, level).x0
        x = langevin_step(x, _score(*seen, logsnr), size, fresh(noise, x))
    return x, seen


def _score(x: Latent, x0_hat: Latent, logsnr: float) -> Latent:
    """grad log q(x) at a finite level (b, *d), in the dtype of `x`."""
    return from_x0("score", x0_hat, x, per_image(logsnr, x)).to(x.dtype)


def _coefficients(t: Tensor, s: Tensor, predictor: Predictor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of x_t and of x0_hat in the mean, and the variance, each in the shape of the levels.

    The score is (sqrt(alpha_bar_t) x0_hat - x_t) / var_t, so `weight` times the score is `share` times
    (sqrt(alpha_bar_t) x0_hat - x_t) with share = weight / var_t; for beta that is 1 - SNR_t / SNR_s.
    """
    alpha_step = _alpha_step(t, s)
    if predictor == "reverse_diffusion":
        share = -torch.expm1(t - s)
        keep, var = 2 - alpha_step.sqrt() - share, share * (-t).sigmoid()
    else:
        var = -alpha_step.log()
        share = var / (-t).sigmoid()
        keep = 1 + var / 2 - share
    pull = share * t.sigmoid().sqrt()
    endless = torch.isinf(t) | torch.isinf(s)  # there x_s is drawn around x0_hat alone
    keep = torch.where(endless, 0.0, keep)
    return keep, torch.where(endless, s.sigmoid().sqrt(), pull), torch.where(endless, (-s).sigmoid(), var)


def _alpha_step(t: Tensor, s: Tensor) -> Tensor:
    """alpha_bar_t / alpha_bar_s."""
    return t.sigmoid() / s.sigmoid()


def _check_snr(snr: float) -> None:
    if not 0 < snr < 1:
        raise ValueError(f"snr: {snr} is not a number in (0, 1); 0.16 is usual")


def _whole(name: str, value: int | float, least: int) -> int:
    if not (least <= value < math.inf and value == int(value)):
        raise ValueError(f"{name}: {value} is not a whole number of at least {least}")
    return int(value)
