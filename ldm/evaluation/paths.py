"""What each step of a path costs, from one evaluation per level: tables of steps, best variances, bounds on sub-paths.

A step from level t to any cleaner level s uses the same x0_hat(x_t), so the errors of T evaluations give all
T (T + 1) / 2 steps in closed form. Source: Watson et al. 2021 (arXiv:2106.03802) section 3.2.

Levels are numbered as the nodes of `ldm.process.paths`: node 0 is clean data, nodes 1 .. T are the given levels.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.gaussian import Gaussian
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent, PerImage
from ldm.denoiser import Denoiser
from ldm.process.conditionals import q_sample
from ldm.process.elbo import ElboTerms, denoise_term, prior_term, recon_term
from ldm.process.paths import Cost, Path
from ldm.process.schedule import Schedule
from ldm.process.variance import AnalyticVariance, upper

Levels = Float[Tensor, " t"]  # strictly falling, finite, nats: node 1 first
Errors = Float[Tensor, "b t"]  # |x_0 - x0_hat|^2 of each picture at each level, summed over the latent
Variance = Literal["posterior", "upper"] | AnalyticVariance

CHUNK = 1 << 18  # steps computed together


@torch.no_grad()
def level_errors(denoise: Denoiser, x0: Latent, levels: Levels, noise: NoiseStream) -> Errors:
    """|x_0 - x0_hat|^2 of every latent at every level (b, t), float64 on the CPU: one evaluation a level.

    Args:
        denoise: (x_t, logsnr) -> Denoised, conditions bound.
        x0: clean latents (b, *d).
        levels: nodes 1 .. T.
        noise: one stream per latent; fresh noise at every level.
    """
    dtype = torch.promote_types(x0.dtype, torch.float32)
    columns = []
    for level in _checked(levels).tolist():
        logsnr = torch.full((len(x0),), level, dtype=dtype, device=x0.device)
        error = denoise(q_sample(x0, noise.normal(x0.shape, like=x0), logsnr), logsnr).x0 - x0
        columns.append((error**2).flatten(1).sum(1).cpu().double())
    return torch.stack(columns, dim=1)


def nodes_of(schedule: Schedule, timesteps: Sequence[int]) -> Levels:
    """Levels of rising timesteps 0 .. T - 1 as nodes.

    Raises:
        ValueError: no timestep, one out of range, or timesteps that do not rise.
    """
    total = schedule.steps
    for before, index in zip([-1, *timesteps], timesteps, strict=False):
        if not before < index < total:
            raise ValueError(f"timesteps: {index} after {before}; give rising timesteps in 0..{total - 1}")
    if not timesteps:
        raise ValueError(f"timesteps: none given; give some of 0..{total - 1}")
    return _checked(schedule(torch.tensor([(i + 1) / total for i in timesteps], dtype=torch.float64)))


def analytic_variance(errors: Errors, levels: Levels, size: int, model: str = "") -> AnalyticVariance:
    """The variance statistics of a denoiser, from the same errors as the table.

        gamma_t = 1 - SNR_t E|x_0 - x0_hat|^2 / d = 1 - E|eps - eps_hat|^2 / d

    For the true denoiser that is E|eps_hat|^2 / d (`ldm.process.variance.noise_power`). For a network this is the
    better number: it makes the step's variance exactly the mean squared error that its mean leaves, where the bound is
    least. A level at which the network is worse than x_t / sqrt(alpha_bar) gets gamma 0.

    Source: Bao et al. 2022 (arXiv:2201.06503) Theorem 1; with the error of the mean, Bao et al. 2022
    (arXiv:2206.07309) section 3.

    Args:
        errors: of `level_errors`.
        levels: theirs.
        size: d, elements of a latent.
        model: content hash of the measured model.
    """
    gamma = (1 - levels.exp() * errors.mean(0) / size).clamp(min=0.0)
    return AnalyticVariance(logsnr=tuple(levels.tolist()), gamma=tuple(gamma.tolist()), model=model)


def term_table(
    denoise: Denoiser,
    x0: Latent,
    levels: Levels,
    noise: NoiseStream,
    variance: Variance = "posterior",
) -> Cost:
    """Mean cost of every step between the levels (T + 1, T + 1), nats: `level_errors`, then `table_of`."""
    return table_of(level_errors(denoise, x0, levels, noise), levels, x0[0].numel(), variance)


def table_of(errors: Errors, levels: Levels, size: int, variance: Variance = "posterior") -> Cost:
    """Mean over pictures of what each step adds to the bound (T + 1, T + 1), nats, for `optimal_paths`.

    Entry [t, s] is E KL(q(x_s | x_t, x_0) || p(x_s | x_t)), entry [t, 0] is E[-log p(x_0 | x_t)]; above the diagonal
    inf. p has the mean of q at x0_hat and the stated variance; how clean data are decoded is said at `decode_term`.
    The prior term is `prior_term` of the last level, for every path alike.

    Args:
        errors: of `level_errors`.
        levels: theirs.
        size: d, elements of a latent.
        variance: of p.

    Raises:
        ValueError: errors and levels disagree, or a level is not in the variance's own table.
    """
    levels = _checked(levels)
    if errors.shape[1] != len(levels):
        raise ValueError(f"errors: {errors.shape[1]} levels, but {len(levels)} are given; give those of the errors")
    mean = errors.mean(0)
    count = len(levels)
    table = torch.full((count + 1, count + 1), math.inf, dtype=torch.float64)
    table[1:, 0] = decode_term(mean, levels, size, variance)
    t, s = torch.tril_indices(count, count, -1).unbind()
    for part in torch.arange(len(t)).split(CHUNK):
        terms = step_term(mean[t[part]], levels[s[part]], levels[t[part]], size, variance)
        table[t[part] + 1, s[part] + 1] = terms
    return table


def step_term(error: PerImage, logsnr_s: PerImage, logsnr_t: PerImage, size: int, variance: Variance) -> PerImage:
    """`denoise_term` of a step for which only |x_0 - x0_hat|^2 and d are known (n,), nats.

    The term is linear in the squared error and otherwise the same for every element, so one element with the mean
    error stands for all.
    """
    root = (error / size).sqrt()[:, None]
    var = _step_variance(variance, logsnr_s, logsnr_t)
    return size * denoise_term(root, torch.zeros_like(root), logsnr_s, logsnr_t, None if var is None else var[:, None])


def decode_term(error: PerImage, logsnr: PerImage, size: int, variance: Variance) -> PerImage:
    """-log p(x_0 | x_t) of the last step of a path (n,), nats, averaged over the noise of x_t.

    The decoder is N(x0_hat, var), the limit of the other steps, with the measured variance or the upper bound's
    sigma_t^2. The posterior's variance is 0 there; for it the decoder is the likelihood of x_t alone, `first_decoder`,
    without a network: d/2 (log 2 pi e - logsnr). Each is a density of the latent.
    """
    if variance == "posterior":
        return 0.5 * size * (math.log(2 * math.pi * math.e) - logsnr)
    clean = torch.full_like(logsnr, math.inf)
    var = variance(clean, logsnr) if isinstance(variance, AnalyticVariance) else torch.sigmoid(-logsnr)
    root, var = (error / size).sqrt()[:, None], var[:, None]
    return size * recon_term(root, Gaussian(torch.zeros_like(root), var))


def path_terms(
    errors: Errors, x0: Latent, levels: Levels, indices: Sequence[int], variance: Variance = "posterior"
) -> ElboTerms:
    """The negative bound of every picture on a sub-path, by term (b,), nats, float64: no step is left to chance.

    -log p(x_0) <= its total on average over the noise that the errors saw, if the variance was measured on other
    pictures.

    Args:
        errors: of `level_errors` (b, T).
        x0: the latents that they are of (b, *d).
        levels: nodes 1 .. T.
        indices: the nodes that the path leaves, rising, each 1 .. T.
        variance: of the reverse steps.

    Raises:
        ValueError: the indices do not rise, or one is not a node.
    """
    if max(Path(tuple(indices), 0.0).indices) > len(levels):
        raise ValueError(f"indices: {max(indices)} is beyond the last of {len(levels)} levels")
    size, columns = x0[0].numel(), [i - 1 for i in indices]
    visited, seen = levels[columns], errors[:, columns]
    denoising = torch.zeros(len(x0), dtype=torch.float64)
    for i in range(1, len(columns)):
        s, t = visited[i - 1].expand(len(x0)), visited[i].expand(len(x0))
        denoising = denoising + step_term(seen[:, i], s, t, size, variance)
    recon = decode_term(seen[:, 0], visited[0].expand(len(x0)), size, variance)
    return ElboTerms(recon, prior_term(x0.cpu().double(), visited[-1].expand(len(x0))), denoising)


def _step_variance(variance: Variance, logsnr_s: PerImage, logsnr_t: PerImage) -> PerImage | None:
    """None where the step has the posterior's own variance, for which `denoise_term` is exact."""
    if isinstance(variance, AnalyticVariance):
        return variance(logsnr_s, logsnr_t)
    if variance == "posterior":
        return None
    return upper(logsnr_s, logsnr_t)


def _checked(levels: Levels) -> Levels:
    if not bool(torch.isfinite(levels).all()) or bool((levels.diff() >= 0).any()):
        raise ValueError("levels: they must be finite and fall strictly, cleanest first; at pure noise stop one before")
    return levels.detach().cpu().double()
