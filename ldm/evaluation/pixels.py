"""How likely a pixel is given what a decoder says: p(x | z), a Gaussian or a Laplace of one scale, on 8-bit values."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from ldm.core.gaussian import Gaussian, discretised_log_prob, log_prob
from ldm.core.precision import in_float64
from ldm.core.shapes import Image, PerImage

Kind = Literal["gaussian", "laplace"]


@dataclass(frozen=True, kw_only=True)
class PixelLikelihood:
    """Independent channels of pixels around the decoder's mean x_hat, all with one scale.

    On `levels` values it is a probability, each value owning the interval of width 2 / (levels - 1) around it and the
    outermost reaching to infinity; with `levels` None it is a density.

    Source: Ho et al. 2020 (arXiv:2006.11239) Eq. 13, there a Gaussian.

    Attributes:
        kind: picks the distribution.
        scale: standard deviation of the Gaussian, mean absolute deviation of the Laplace; pixels in [-1, 1].
        levels: values that a pixel can have, 2 or more, or None.
    """

    kind: Kind = "laplace"
    scale: float
    levels: int | None = 256

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale: {self.scale} is not a positive number; measure it, or try 0.05")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels: {self.levels} is below 2; 256 is that of 8 bits")

    def nll(self, x: Image, x_hat: Image) -> PerImage:
        """-log p(x | z) (b,), nats, float64. With `levels`, `x` must lie on those values."""
        x, x_hat = in_float64(x), in_float64(x_hat)
        if self.kind == "gaussian":
            g = Gaussian(x_hat, torch.full_like(x_hat, self.scale**2))
            return -log_prob(g, x) if self.levels is None else -discretised_log_prob(g, x, self.levels)
        if self.levels is None:
            return ((x - x_hat).abs() / self.scale + math.log(2 * self.scale)).flatten(1).sum(1)
        return -_discretised_laplace(x, x_hat, self.scale, self.levels)


def measured_scale(kind: Kind, x: Image, x_hat: Image) -> float:
    """The scale under which pictures are most likely (as densities): root mean square, or mean absolute, difference.

    Measured on the pictures that are then scored it flatters them by the cost of sending one number.
    """
    difference = in_float64(x - x_hat)
    return float(difference.square().mean().sqrt() if kind == "gaussian" else difference.abs().mean())


def _discretised_laplace(x: Image, mean: Image, scale: float, levels: int) -> PerImage:
    """Log probability (b,), in the tail where nothing cancels: the distribution is symmetric about its mean."""
    half = 1.0 / (levels - 1)
    far, near = ((x - mean).abs() + half) / scale, ((x - mean).abs() - half) / scale
    # An interval beside the mean: 1/2 exp(-near) (1 - exp(-2 half / scale)); around it: what both tails leave.
    beside = -near - math.log(2) + math.log(-math.expm1(-2 * half / scale))
    around = torch.log1p(-0.5 * torch.exp(-far) - 0.5 * torch.exp(near.clamp(max=0)))
    terms = torch.where(near > 0, beside, around)
    terms = torch.where(x >= 1 - half, _log_above((x - half - mean) / scale), terms)
    terms = torch.where(x <= -1 + half, _log_above((mean - x - half) / scale), terms)
    return terms.flatten(1).sum(1)


def _log_above(z: Image) -> Image:
    """log P(Z > z) of a Laplace variable of scale 1."""
    return torch.where(z > 0, -z - math.log(2), torch.log1p(-0.5 * torch.exp(z.clamp(max=0))))
