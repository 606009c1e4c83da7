"""Diagonal Gaussians in closed form: the only distribution that the theory needs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.core.ranges import ROUNDING, check_not_negative, check_within
from ldm.core.shapes import Latent, PerImage


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag(var)). `var` has the shape of `mean` or broadcasts to it; its unit is that of mean squared.

    Raises:
        ValueError: a variance is negative (looked at on the CPU only, see `ldm.core.ranges`); zero is a point. One that
            is not a number passes: of a training that diverged more is to be said than that.
    """

    mean: Tensor
    var: Tensor

    def __post_init__(self) -> None:
        check_not_negative("var", self.var)


def sample(g: Gaussian, z: Latent) -> Latent:
    """Reparameterised draw, mean + sqrt(var) z, from standard normal `z` (b, *d)."""
    return g.mean + g.var.sqrt() * z


def standard_normal_like(x: Latent) -> Gaussian:
    """The prior N(0, I) in the shape, dtype and device of `x`."""
    return Gaussian(torch.zeros_like(x), torch.ones_like(x))


def kl(q: Gaussian, p: Gaussian) -> PerImage:
    """KL(q || p) of diagonal Gaussians, summed over every axis but the first, in nats.

        1/2 sum [ log(var_p / var_q) - 1 + var_q / var_p + (mean_p - mean_q)^2 / var_p ]

    Source: lecture, "Denoising matching term" (KL of two Gaussians of dimension d).
    """
    excess = (q.var - p.var) / p.var
    # log1p of the relative difference is exact where both variances nearly agree, but in float32 it is -inf
    # where var_q / var_p < 1e-8; each form is used only where it is accurate.
    near = torch.log1p(excess.clamp(min=-0.5))
    log_ratio = torch.where(excess < -0.5, q.var.log() - p.var.log(), near)
    terms = 0.5 * (excess - log_ratio + (p.mean - q.mean) ** 2 / p.var)
    return terms.expand(torch.broadcast_shapes(q.mean.shape, p.mean.shape)).flatten(1).sum(1)


def log_prob(g: Gaussian, x: Latent) -> PerImage:
    """log N(x; mean, var), summed over every axis but the first, in nats (b,)."""
    terms = -0.5 * (math.log(2 * math.pi) + g.var.log() + (x - g.mean) ** 2 / g.var)
    return terms.expand(x.shape).flatten(1).sum(1)


def discretised_log_prob(g: Gaussian, x: Latent, levels: int = 256) -> PerImage:
    """Log probability of pixels in [-1, 1] on a grid of `levels` values, in nats (b,).

    Each pixel owns the interval of width 2 / (levels - 1) around it; the outermost intervals reach to infinity,
    so that the probabilities of all levels sum to one.

    Source: Ho et al. 2020 (arXiv:2006.11239) Eq. 13.

    Raises:
        ValueError: fewer than 2 levels, or a pixel outside [-1, 1] (looked at on the CPU only).
    """
    if levels < 2:
        raise ValueError(f"levels: {levels}; a pixel has at least 2 values, 256 for 8 bits")
    check_within("x", x, -1 - ROUNDING, 1 + ROUNDING, hint="pixels are scaled to [-1, 1]")
    half = 1.0 / (levels - 1)
    std = g.var.sqrt()
    upper, lower = (x + half - g.mean) / std, (x - half - g.mean) / std
    # Work in the tail where the normal CDF does not round to one: mirror pixels right of the mean.
    flip = x > g.mean
    log_upper = torch.special.log_ndtr(torch.where(flip, -lower, upper))
    log_lower = torch.special.log_ndtr(torch.where(flip, -upper, lower))
    smallest = torch.finfo(log_upper.dtype).tiny
    inside = log_upper + torch.log(-torch.expm1((log_lower - log_upper).clamp(max=-smallest)))
    terms = torch.where(x >= 1 - half, torch.special.log_ndtr(-lower), inside)
    terms = torch.where(x <= -1 + half, torch.special.log_ndtr(upper), terms)
    return terms.flatten(1).sum(1)
