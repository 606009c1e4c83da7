"""Which of several captions explains a picture best: the denoiser as a classifier.

    p(caption | x) is proportional to p(x | caption) p(caption), and -log p(x | caption) is bounded by the sum of the
    denoising terms, up to terms that no caption enters.

Source: Li et al. 2023 (arXiv:2303.16203) Eq. 5 and Algorithm 1, whose weight on the noise error is 1 (`SimpleEps`);
the bound's own weight is `Elbo`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import CondDenoiser
from ldm.nets.cond import Cond
from ldm.process.conditionals import q_sample
from ldm.process.schedule import Schedule
from ldm.process.weights import Elbo, Weight


@dataclass(frozen=True, eq=False)
class CaptionScores:
    """The error that each caption leaves; lower explains better.

    Attributes:
        draws: weighted |x_0 - x0_hat|^2 of each picture under each caption, at each of the common levels; with the
            weight `Elbo` their mean over the levels is in nats (b, captions, draws).
    """

    draws: Float[Tensor, "b captions draws"]

    @property
    def mean(self) -> Float[Tensor, "b captions"]:
        """Estimate of the sum over levels."""
        return self.draws.mean(2)

    @property
    def best(self) -> Int[Tensor, " b"]:
        """Number of the best caption of each picture."""
        return self.mean.argmin(1)

    @property
    def behind(self) -> Float[Tensor, "b captions"]:
        """How far each caption is behind the best, zero for that."""
        return self._differences().mean(2)

    @property
    def error(self) -> Float[Tensor, "b captions"]:
        """Standard error of `behind`: small, because noise and levels are common. nan for a single draw."""
        return self._differences().std(2) / self.draws.shape[2] ** 0.5

    @property
    def probability(self) -> Float[Tensor, "b captions"]:
        """p(caption | x) for equally likely captions, if the weight is `Elbo`: softmax of minus the nats."""
        return (-self.mean).softmax(1)

    def _differences(self) -> Tensor:
        chosen = self.best[:, None, None].expand(-1, 1, self.draws.shape[2])
        return self.draws - self.draws.gather(1, chosen)


@torch.no_grad()
def which_caption(
    denoise: CondDenoiser,
    x0: Latent,
    captions: Sequence[Cond],
    schedule: Schedule,
    noise: NoiseStream,
    *,
    draws: int,
    weight: Weight | None = None,
) -> CaptionScores:
    """Score captions on the same noisy copies of each picture.

    Args:
        denoise: (x_t, logsnr, cond) -> Denoised.
        x0: clean latents (b, *d).
        captions: one condition each, of one row for all pictures or of b rows.
        schedule: levels at t = (j + u) / draws, stratified.
        noise: one stream per picture.
        draws: noisy copies of a picture; the denoiser runs draws times captions.
        weight: of the levels; None is `Elbo`.

    Raises:
        ValueError: no caption, no draw, or a caption of another number of rows.
    """
    if not captions or draws < 1:
        raise ValueError(f"captions, draws: {len(captions)} and {draws}; give at least one of each")
    conds = [_rows(cond, len(x0)) for cond in captions]
    weigh = Elbo() if weight is None else weight
    columns = []
    for j in range(draws):
        u = noise.uniform((len(x0),)).to(device=x0.device, dtype=torch.promote_types(x0.dtype, torch.float32))
        t = ((j + u) / draws).clamp(max=1 - 1e-7)  # where noise is pure the weight of a level has no number
        level = schedule(t)
        x_t = q_sample(x0, noise.normal(x0.shape, like=x0), level)
        weights = weigh(level, schedule.slope(t))
        errors = [((denoise(x_t, level, cond).x0 - x0) ** 2).flatten(1).sum(1) for cond in conds]
        columns.append(torch.stack([weights * error for error in errors], dim=1).cpu().double())
    return CaptionScores(torch.stack(columns, dim=2))


def _rows(cond: Cond, b: int) -> Cond:
    if len(cond) == b:
        return cond
    if len(cond) != 1:
        raise ValueError(f"captions: a condition of {len(cond)} rows for {b} pictures; give 1 row or {b}")
    return cond.map(lambda row: row.expand(b, *row.shape[1:]))
