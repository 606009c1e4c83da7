"""Which noise levels a training batch sees: rules that draw times t in [0, 1]."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.rng import NoiseStream
from ldm.core.shapes import PerImage
from ldm.process.schedule import Schedule


@runtime_checkable
class Times(Protocol):
    """A spec that draws times."""

    def draw(self, n: int, noise: NoiseStream, schedule: Schedule) -> PerImage:
        """Draw `n` times in [0, 1], float32 on the CPU (n,).

        Args:
            n: images in the batch.
            noise: one stream (not one per image: the draws of a batch may depend on each other).
            schedule: what turns the times into levels.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Independent times, uniform in [0, 1)."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, n: int, noise: NoiseStream, schedule: Schedule) -> PerImage:
        return noise.uniform((1, n))[0]


@dataclass(frozen=True, kw_only=True)
class LowDiscrepancy:
    """t_i = frac(u + i / n) with one uniform u: each t_i is uniform, and together they cover [0, 1) evenly.

    The loss keeps its mean and loses variance. Source: Kingma et al. 2021 (arXiv:2107.00630) appendix I.1.
    """

    kind: Literal["low_discrepancy"] = "low_discrepancy"

    def draw(self, n: int, noise: NoiseStream, schedule: Schedule) -> PerImage:
        return spread(noise.uniform((1, 1))[0], n)


def spread(u: Float[Tensor, "1"], n: int) -> PerImage:
    """`n` even times (n,) that `u` (1,) in [0, 1) shifts, in its precision: frac(u + i / n)."""
    return (u + torch.arange(n, dtype=u.dtype) / n) % 1


@dataclass(frozen=True, kw_only=True)
class LogNormal:
    """log sigma_ve normal, restricted to the schedule's own range of levels; sigma_ve = exp(-logsnr / 2).

    Source: Karras et al. 2022 (arXiv:2206.00364) Table 1, whose noise levels are not restricted.

    Args:
        mean, std: of log sigma_ve. EDM's -1.2 for data of standard deviation 0.5 has the signal-to-noise ratios of -0.5
            for unit data, as normalised latents are.
    """

    kind: Literal["log_normal"] = "log_normal"
    mean: float = -0.5
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std: {self.std} is not positive; 1.2 is usual")

    def draw(self, n: int, noise: NoiseStream, schedule: Schedule) -> PerImage:
        """`n` times (n,), float32, from one stream.

        Raises:
            ValueError: (almost) no level of the distribution lies within the schedule.
        """
        ends = -schedule(torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2
        low, high = torch.special.ndtr((ends - self.mean) / self.std)
        if high - low < 1e-6:
            raise ValueError(
                f"mean, std: {self.mean}, {self.std} put (almost) no level within the schedule's log sigma_ve, "
                f"{ends[0]:.2f} to {ends[1]:.2f}; move the mean there"
            )
        u = low + (high - low) * noise.uniform((1, n))[0].double()
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return schedule.inverse(-2 * log_sigma).clamp(0, 1).float()
