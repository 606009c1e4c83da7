"""Training objectives: what a denoiser is asked to make small, per image."""

import torch

from ldm.core.shapes import Latent, LogSNR, PerImage
from ldm.denoiser import Denoiser
from ldm.process.conditionals import q_sample
from ldm.process.elbo import (
    ElboTerms,
    denoise_term,
    denoise_term_continuous,
    first_decoder,
    prior_term,
    recon_term,
)
from ldm.process.schedule import Schedule
from ldm.process.variance import learned_range
from ldm.process.weights import Weight


def denoising_loss(
    denoise: Denoiser,
    x0: Latent,
    eps: Latent,
    logsnr: LogSNR,
    weight: Weight,
    slope: PerImage,
    target: Latent | None = None,
) -> PerImage:
    """weight(logsnr) times the mean squared error of the clean latent, for one noisy copy of each image (b,).

    Whatever the network predicts, the error is taken on x_0, where every weight is defined. For a network that
    predicts noise that error is a difference of nearly equal numbers in clean copies: in float32 the loss is good
    to 1e-3 at 10 nats and to a few percent at 20.

    Args:
        denoise: (x_t, logsnr) -> Denoised, conditions already bound.
        x0: clean latents (b, *d), float32 or wider.
        eps: standard normal noise (b, *d).
        logsnr: level of each copy (b,), nats.
        weight: a spec of `ldm.process.weights`.
        slope: d logsnr / dt of the schedule at those levels (b,); only the weights that are bounds look at it.
        target: what x0_hat is to be (b, *d), such as another denoiser's estimate; None: `x0`.
    """
    error = denoise(q_sample(x0, eps, logsnr), logsnr).x0 - (x0 if target is None else target)
    return weight(logsnr, slope) * (error**2).flatten(1).mean(1)


def vlb_loss(
    denoise: Denoiser, x0: Latent, eps: Latent, t: PerImage, schedule: Schedule, *, steps: int | None = None
) -> ElboTerms:
    """The negative evidence lower bound of each image, its sum over levels estimated from one of them, unbiased.

    The cleanest level is decoded without the network (`first_decoder`), so that the network is run once.

    Args:
        denoise: (x_t, logsnr) -> Denoised, conditions already bound.
        x0: clean latents (b, *d).
        eps: standard normal noise (b, *d), used for both noisy copies.
        t: uniform in [0, 1) (b,): which level stands for all.
        schedule: the levels, nats.
        steps: T of the discrete bound with levels at t = 1/T, ..., 1, decoded from t = 1/T; None is the limit of
            infinitely many, decoded from t = 0. With T = 1 there is no denoising term and the network is not run.

    Returns:
        Terms in nats per image (b,).

    Raises:
        ValueError: `steps` below 1.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps: {steps} is below 1; give at least one step, or None for the continuous bound")
    first = schedule(torch.full_like(t, 0.0 if steps is None else 1 / steps))
    recon = recon_term(x0, first_decoder(q_sample(x0, eps, first), first))
    prior = prior_term(x0, schedule(torch.ones_like(t)))
    if steps == 1:
        return ElboTerms(recon, prior, torch.zeros_like(recon))
    if steps is None:
        level = schedule(t)
        x0_hat = denoise(q_sample(x0, eps, level), level).x0
        return ElboTerms(recon, prior, denoise_term_continuous(x0, x0_hat, level, schedule.slope(t)))
    step = 2 + (t * (steps - 1)).floor()  # one of 2 .. T
    level_s, level_t = schedule((step - 1) / steps), schedule(step / steps)
    x0_hat = denoise(q_sample(x0, eps, level_t), level_t).x0
    return ElboTerms(recon, prior, (steps - 1) * denoise_term(x0, x0_hat, level_s, level_t))


def hybrid_loss(
    denoise: Denoiser,
    x0: Latent,
    eps: Latent,
    t: PerImage,
    schedule: Schedule,
    weight: Weight,
    *,
    steps: int,
    share: float = 0.001,
) -> PerImage:
    """The objective for a learned variance: a weighted error that teaches the mean, a bound that teaches the variance.

        loss = weight(logsnr_t) mean |x_0 - x0_hat|^2 + share steps KL(q(x_s | x_t, x_0) || p(x_s | x_t)) / d

    with levels at 0, 1/T, ..., 1 for T = `steps`, s the one before t, and in the second term the mean of p held
    constant: its gradient reaches the mean only through weights that the network shares between its two outputs. Over
    uniform t that term is `share` times all the denoising terms of the bound decoded from t = 0, in nats per dimension.

    Source: Nichol and Dhariwal 2021 (arXiv:2102.09672) Eq. 15 and 16; the weight `SimpleEps` gives their L_simple.

    Args:
        denoise: (x_t, logsnr) -> Denoised with `var_fraction`, conditions already bound.
        x0: clean latents (b, *d), float32 or wider.
        eps: standard normal noise (b, *d).
        t: uniform in [0, 1) (b,): which level stands for all.
        schedule: the levels, nats.
        weight: a spec of `ldm.process.weights`.
        steps: T, for which the variance is learned; the schedule's own number is usual.
        share: of the bound; small, since its gradients are far noisier.

    Returns:
        One loss per image (b,).

    Raises:
        ValueError: `steps` below 1, or the denoiser gives no `var_fraction`.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1; give the number of steps that the variance is learned for")
    step = 1 + (t * steps).floor()  # one of 1 .. T
    level_s, level_t = schedule((step - 1) / steps), schedule(step / steps)
    said = denoise(q_sample(x0, eps, level_t), level_t)
    if said.var_fraction is None:
        raise ValueError("denoise: gives no var_fraction; the hybrid loss needs a network with a learned variance")
    simple = weight(level_t, schedule.slope(step / steps)) * ((said.x0 - x0) ** 2).flatten(1).mean(1)
    var = learned_range(said.var_fraction, level_s, level_t)
    bound = steps * denoise_term(x0, said.x0.detach(), level_s, level_t, var) / x0[0].numel()
    return simple + share * bound
