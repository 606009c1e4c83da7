"""Loss weights, each defined once, on the error of the clean latent: weight(logsnr) |x_0 - x0_hat|^2.

Errors of the other predictions at the same level are multiples of this one, |eps error|^2 = SNR |x_0 error|^2 and
|v error|^2 = (SNR + 1) |x_0 error|^2, so a weight means the same loss whatever the network predicts.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ldm.core.ranges import check_falling, check_levels
from ldm.core.shapes import LogSNR, PerImage


@runtime_checkable
class Weight(Protocol):
    """A spec that weighs levels."""

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        """Weight on |x_0 - x0_hat|^2 (b,), for levels drawn by t uniform in [0, 1].

        Args:
            logsnr: level (b,), nats. Every weight is finite in float32 on [-20, 20] nats.
            slope: d logsnr / dt of the schedule at those levels (b,), negative. Weights that are not a bound
                (all but Elbo and SigmoidWeight) do not look at it.

        Raises:
            ValueError: a level is not a number, or a slope that is looked at is positive (on the CPU only).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Elbo:
    """The likelihood bound in continuous time: -1/2 dSNR/dt = -1/2 SNR slope, nats.

    Source: Kingma et al. 2021 (arXiv:2107.00630) section 5.
    """

    kind: Literal["elbo"] = "elbo"

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        check_falling(logsnr, slope)
        return -0.5 * logsnr.exp() * slope


@dataclass(frozen=True, kw_only=True)
class SimpleEps:
    """Plain mean squared error of the noise: SNR. Source: Ho et al. 2020 (arXiv:2006.11239) Eq. 14."""

    kind: Literal["simple_eps"] = "simple_eps"

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        check_levels(logsnr)
        return logsnr.exp()


@dataclass(frozen=True, kw_only=True)
class SimpleV:
    """Plain mean squared error of v: SNR + 1. Source: Salimans and Ho 2022 (arXiv:2202.00512) section 4."""

    kind: Literal["simple_v"] = "simple_v"

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        check_levels(logsnr)
        return logsnr.exp() + 1


@dataclass(frozen=True, kw_only=True)
class MinSNR:
    """min(SNR, gamma). Source: Hang et al. 2023 (arXiv:2303.09556).

    Args:
        gamma: SNR above which levels weigh alike on x_0, positive.
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        check_levels(logsnr)
        return logsnr.clamp(max=math.log(self.gamma)).exp()


@dataclass(frozen=True, kw_only=True)
class SoftMinSNR:
    """SNR gamma / (SNR + gamma): MinSNR without the corner. Source: Crowson et al. 2024 (arXiv:2401.11605).

    Args:
        gamma: the limit of the weight for clean levels, positive.
    """

    kind: Literal["soft_min_snr"] = "soft_min_snr"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        check_levels(logsnr)
        return self.gamma * (logsnr - math.log(self.gamma)).sigmoid()


@dataclass(frozen=True, kw_only=True)
class EDM:
    """(sigma_ve^2 + sigma_data^2) / (sigma_ve sigma_data)^2 = SNR + 1 / sigma_data^2: the EDM network's own error.

    Source: Karras et al. 2022 (arXiv:2206.00364) Table 1.

    Args:
        sigma_data: standard deviation of the latents, positive.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("sigma_data", self.sigma_data)

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        check_levels(logsnr)
        return logsnr.exp() + self.sigma_data**-2


@dataclass(frozen=True, kw_only=True)
class SigmoidWeight:
    """The bound with weight sigmoid(bias - logsnr) on the noise error: -1/2 SNR sigmoid(bias - logsnr) slope.

    A weighted bound, so the loss depends on the schedule through its ends only. Without the slope it is SoftMinSNR
    with gamma = exp(bias). Source: Kingma and Gao 2023 (arXiv:2303.00848).

    Args:
        bias: level at which the weight on the noise error is half, nats.
    """

    kind: Literal["sigmoid"] = "sigmoid"
    bias: float = 2.0

    def __call__(self, logsnr: LogSNR, slope: PerImage) -> PerImage:
        check_falling(logsnr, slope)
        return -0.5 * math.exp(self.bias) * (logsnr - self.bias).sigmoid() * slope


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: {value} is not a positive number")
