"""What a network predicts: noise, clean latent, score or v. Every one is an affine map of the others.

With a = sqrt(alpha_bar), s = sigma (so a^2 + s^2 = 1) and x_t = a x_0 + s eps:

    eps = (x_t - a x_0) / s        score = grad log q(x_t | x_0) = -eps / s        v = a eps - s x_0

Source: lecture, interpretations I to III; v: Salimans and Ho 2022 (arXiv:2202.00512) section 4.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ldm.core.ranges import check_alike, check_is_not, check_levels
from ldm.core.shapes import Latent, LogSNR, PerImage, expand_like

Kind = Literal["eps", "x0", "score", "v"]


def to_x0(kind: Kind, out: Latent, x_t: Latent, logsnr: LogSNR) -> Latent:
    """The clean latent that a prediction stands for.

    An error of the network reaches x_0 multiplied by: eps 1/SNR^(1/2), score sigma/SNR^(1/2), v sigma, x0 one. So
    eps and score are useless at pure noise (logsnr = -inf), where v and x0 are exact.

    Args:
        kind: what `out` is.
        out: the network's prediction (b, *d).
        x_t: the noisy latents it saw (b, *d).
        logsnr: their level (b,), nats.

    Returns:
        x0_hat (b, *d).

    Raises:
        ValueError: `kind` is unknown, a level is not a number, or eps or score at pure noise (levels are looked at on
            the CPU only, see `ldm.core.ranges`).
    """
    check_alike(x_t=x_t, out=out)
    if kind in ("eps", "score"):
        check_is_not(-math.inf, logsnr, hint=f"at pure noise {kind} says nothing of x_0; use v or x0")
    a, s = _amplitudes(logsnr, x_t)
    match kind:
        case "x0":
            return out
        case "eps":
            return (x_t - s * out) / a
        case "score":
            return (x_t + s**2 * out) / a
        case "v":
            return a * x_t - s * out
    raise _unknown(kind)


def from_x0(kind: Kind, x0: Latent, x_t: Latent, logsnr: LogSNR) -> Latent:
    """The prediction of `kind` that stands for a clean latent: the inverse of `to_x0`, with its arguments.

    Every kind but x0 is undefined at clean data, logsnr = inf.

    Raises:
        ValueError: `kind` is unknown, a level is not a number, or such a kind at clean data (on the CPU only).
    """
    check_alike(x_t=x_t, x0=x0)
    if kind != "x0":
        check_is_not(math.inf, logsnr, hint=f"{kind} is undefined at clean data")
    a, s = _amplitudes(logsnr, x_t)
    match kind:
        case "x0":
            return x0
        case "eps":
            return (x_t - a * x0) / s
        case "score":
            return (a * x0 - x_t) / s**2
        case "v":
            return (a * x_t - x0) / s
    raise _unknown(kind)


def target(kind: Kind, x0: Latent, eps: Latent, logsnr: LogSNR) -> Latent:
    """What a perfect network of `kind` would be asked to output for q_sample(x0, eps, logsnr), (b, *d).

    Raises:
        ValueError: `kind` is unknown, a level is not a number, or a score at clean data (on the CPU only).
    """
    check_alike(x0=x0, eps=eps)
    if kind == "score":
        check_is_not(math.inf, logsnr, hint="the score is undefined at clean data")
    a, s = _amplitudes(logsnr, x0)
    match kind:
        case "x0":
            return x0
        case "eps":
            return eps
        case "score":
            return -eps / s
        case "v":
            return a * eps - s * x0
    raise _unknown(kind)


class Coefficients(NamedTuple):
    """The affine wrapper around a raw network F: prediction = c_skip x_t + c_out F(c_in x_t), each (b,)."""

    c_in: PerImage
    c_skip: PerImage
    c_out: PerImage


@runtime_checkable
class Scaling(Protocol):
    """How the raw network is wrapped at a level."""

    def __call__(self, logsnr: LogSNR) -> Coefficients:
        """The three coefficients at a level (b,), nats, for variance-preserving x_t."""
        ...


@dataclass(frozen=True, kw_only=True)
class VP:
    """The network sees x_t and outputs the prediction itself: c_in = 1, c_skip = 0, c_out = 1."""

    kind: Literal["vp"] = "vp"

    def __call__(self, logsnr: LogSNR) -> Coefficients:
        one = torch.ones_like(logsnr)
        return Coefficients(one, torch.zeros_like(logsnr), one)


@dataclass(frozen=True, kw_only=True)
class EDM:
    """Unit-variance network input and target for data of standard deviation `sigma_data`; the prediction is x0.

    With V = alpha_bar sigma_data^2 + sigma^2, the variance of x_t (the paper's formulas have x_t / sqrt(alpha_bar)
    in place of x_t):

        c_in = 1 / sqrt(V)    c_skip = sqrt(alpha_bar) sigma_data^2 / V    c_out = sigma sigma_data / sqrt(V)

    For sigma_data = 1 the network's target is -v. Source: Karras et al. 2022 (arXiv:2206.00364) Table 1.

    Args:
        sigma_data: standard deviation of the latents, positive.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data: {self.sigma_data} is not positive; give the latents' standard deviation")

    def __call__(self, logsnr: LogSNR) -> Coefficients:
        alpha_bar, var = logsnr.sigmoid(), (-logsnr).sigmoid()
        total = alpha_bar * self.sigma_data**2 + var
        skip = alpha_bar.sqrt() * self.sigma_data**2 / total
        return Coefficients(total.rsqrt(), skip, (var / total).sqrt() * self.sigma_data)


def _amplitudes(logsnr: LogSNR, x: Latent) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sigma (b, 1, ..., 1), to multiply `x`."""
    check_levels(logsnr)
    logsnr = expand_like(logsnr, x)
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def _unknown(kind: str) -> ValueError:
    return ValueError(f"prediction kind: {kind!r} is unknown; use one of eps, x0, score, v")
