"""Mean and standard deviation of every latent channel, measured over a data set in one pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.core.gaussian import Gaussian


@dataclass(frozen=True, kw_only=True)
class LatentMoments:
    """What stage 2 normalises latents with.

    Attributes:
        mean: per channel.
        std: per channel, of z = mean + noise, so the posterior's own variance counts.
        images: over how many pictures it was measured.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int


class MomentsMeter:
    """Accumulates the moments of latent channels over batches, in float64 (Chan's parallel form of Welford)."""

    def __init__(self, channels: int):
        self.count, self.images = 0, 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def update(self, posterior: Gaussian) -> None:
        """Take in the posteriors of a batch: means and variances (b, c, h, w)."""
        values = _by_channel(posterior.mean)
        n, mean = values.shape[1], values.mean(1)
        squares = ((values - mean[:, None]) ** 2).sum(1) + _by_channel(posterior.var).sum(1)
        delta, total = mean - self.mean, self.count + n
        self.squares += squares + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count, self.images = total, self.images + posterior.mean.shape[0]

    def moments(self) -> LatentMoments:
        """The result so far.

        Raises:
            ValueError: nothing was taken in.
        """
        if self.count == 0:
            raise ValueError("latent moments: no picture was measured")
        std = (self.squares / self.count).sqrt()
        return LatentMoments(mean=tuple(self.mean.tolist()), std=tuple(std.tolist()), images=self.images)


def _by_channel(x: Tensor) -> Tensor:
    return x.detach().transpose(0, 1).flatten(1).cpu().double()  # in this order: not every device has float64
