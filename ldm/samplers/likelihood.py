"""Exact log-likelihood by the probability flow: change of variables along the path from a level to noise."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.gaussian import log_prob, standard_normal_like
from ldm.core.ranges import check_alike
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent, LogSNR, PerImage
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.process.sde import flow_velocity
from ldm.samplers.loop import per_image

Probes = Float[Tensor, "k b *d"]


def rademacher(noise: NoiseStream, x: Latent, count: int) -> Probes:
    """`count` probes (count, b, *d) of independent signs, -1 or 1, for `ode_nll`; each image's from its own stream.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count: {count} probes; give at least one, or None for the exact trace")
    u = noise.uniform((len(x), count, *x.shape[1:]), like=x)
    return torch.where(u < 0.5, -1.0, 1.0).to(x.dtype).movedim(1, 0)


def ode_nll(denoise: Denoiser, x: Latent, grid: TimeGrid, probes: Probes | None = None) -> PerImage:
    """-log p(x) per image (b,), nats, of noisy latents at the grid's last, cleanest level.

    p is the density over all of *d, in this project's variance-preserving coordinates, of what the probability flow of
    `denoise` makes at the grid's last level out of N(0, I) at its first: of the exact output of a deterministic sampler
    (ddim with eta = 0, dpm_solver) in the limit of short steps. It is not a density of x_0: draw `x` with `q_sample` at
    the grid's last level, or take clean data as if they were that noisy. For the density of x / sqrt(alpha_bar), the
    same latents on the scale of x_0, subtract d/2 logsigmoid(logsnr) of the last level from the result.

    With velocity v of the flow over the level (`flow_velocity`) the log-density along it changes by -div v, so

        -log p(x) = -log N(x_first; 0, I) - int_last^first div v dlogsnr,
        div v     = 1/2 sqrt(alpha_bar) (tr dx0_hat/dx - sqrt(alpha_bar) d)

    Both integrals run over the grid's own levels by the classical Runge-Kutta method: four evaluations a step, fourth
    order in the step. For data with separate modes take some fifty steps or more, evenly in the level: with far fewer
    Heun's method would be no worse at equal cost, but neither result is of use.

    The trace is the mean of v^T (dx0_hat/dx) v over the probes, unbiased for independent entries of mean 0 and variance
    1 and of the least variance for signs; the same probes serve the whole path, so that the result is the integral of
    one smooth function. Without probes the trace is exact, at one backward pass for each of the d dimensions.

    Derivatives are taken by autograd: it is switched on here, under `torch.no_grad` too, and memory is that of one
    evaluation for training. Call it with torch.inference_mode off: what was made in that mode and is not an argument
    here, such as conditions bound to the denoiser, cannot be differentiated through.

    Source: Song et al. 2021 (arXiv:2011.13456) section 4.3, Eq. 39; the estimator, Hutchinson 1990 and
    Grathwohl et al. 2019 (arXiv:1810.01367).

    Args:
        denoise: (x_t, logsnr) -> Denoised, each image by itself, differentiable in x_t.
        x: latents (b, *d) at the grid's last level.
        grid: levels, both ends finite; the first so noisy that q is N(0, I) there.
        probes: (k, b, *d), e.g. of `rademacher`; None: the exact trace, for few dimensions.

    Raises:
        ValueError: an end of the grid is infinite, there are no probes or they are of another shape than `x`, or the
            estimate cannot be differentiated.
    """
    levels = grid.logsnr.tolist()
    if not bool(torch.isfinite(grid.logsnr).all()):
        raise ValueError(f"grid: ends at {levels[0]} and {levels[-1]}; the density needs two finite levels")
    if probes is not None and len(probes) == 0:
        raise ValueError("probes: none given; give at least one, or None for the exact trace")
    if probes is not None:
        check_alike(x=x, probe=probes[0])
    growth = x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
    for logsnr, next_logsnr in zip(levels[:0:-1], levels[-2::-1], strict=True):
        x, gained = _runge_kutta(denoise, x, logsnr, next_logsnr, probes)
        growth = growth + gained
    return -log_prob(standard_normal_like(x), x) - growth


def _runge_kutta(
    denoise: Denoiser, x: Latent, start: float, end: float, probes: Probes | None
) -> tuple[Latent, PerImage]:
    """The latents at level `end`, and the integral of the divergence on the way there."""
    h, middle = end - start, (start + end) / 2
    v1, div1 = _velocity(denoise, x, start, probes)
    v2, div2 = _velocity(denoise, x + h / 2 * v1, middle, probes)
    v3, div3 = _velocity(denoise, x + h / 2 * v2, middle, probes)
    v4, div4 = _velocity(denoise, x + h * v3, end, probes)
    return x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4), h / 6 * (div1 + 2 * div2 + 2 * div3 + div4)


def _velocity(denoise: Denoiser, x: Latent, logsnr: float, probes: Probes | None) -> tuple[Latent, PerImage]:
    """`flow_velocity` (b, *d) and its divergence (b,)."""
    level = per_image(logsnr, x)
    x0_hat, trace = _denoise_and_trace(denoise, x, level, probes)
    amplitude = level.sigmoid().sqrt()
    return flow_velocity(x0_hat, x, level), 0.5 * amplitude * (trace - amplitude * x[0].numel())


def _denoise_and_trace(denoise: Denoiser, x: Latent, level: LogSNR, probes: Probes | None) -> tuple[Latent, PerImage]:
    """x0_hat (b, *d) and tr dx0_hat/dx (b,), the latter exactly or by the mean over the probes."""
    directions: Sequence[Tensor] | Iterator[Tensor] = _axes(x) if probes is None else probes.unbind()
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        x0_hat = denoise(at, level).x0
        if not x0_hat.requires_grad:
            raise ValueError("denoise: its estimate carries no gradient; use it outside of torch.inference_mode")
        terms = []
        for v in directions:
            (product,) = torch.autograd.grad(x0_hat, at, v, retain_graph=True)
            terms.append((v * product).flatten(1).sum(1))
    total = torch.stack(terms).sum(0)
    return x0_hat.detach(), total if probes is None else total / len(terms)


def _axes(x: Latent) -> Iterator[Tensor]:
    """The unit vectors of *d, one after the other, each for all images (b, *d)."""
    for i in range(x[0].numel()):
        axis = torch.zeros_like(x).flatten(1)
        axis[:, i] = 1
        yield axis.reshape(x.shape)
