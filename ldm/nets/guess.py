"""A guess of the clean latent from the text alone: what the denoiser says at pure noise, by a network made for it."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.optim import OptimSpec
from ldm.nets.cond import Cond


@dataclass(frozen=True, kw_only=True)
class GuessSpec:
    """A small network that guesses the latent from the pooled text, and how it is trained before the U-Net.

    At pure noise the best denoiser is E[x_0 | text], a plain regression, for which a U-Net is a slow learner: each of
    its steps sees few latents, most of them at other levels. Trained alone, with large batches, the regression costs
    minutes. The U-Net reads the result beside its input (`net.cond_channels`).

    Attributes:
        pooled_dim: width of the pooled text.
        shape: (channels, height, width) of a latent.
        width: hidden width.
        dropout: share of hidden activations dropped while it is trained.
        noise: the U-Net is trained on guesses with Gaussian noise of a standard deviation drawn from [0, noise], so
            that it does not trust them to the letter (Ho et al. 2022, arXiv:2106.15282, section 4.2).
        batch: latents a step.
        optim: optimiser, learning rate and length; its average is not used.
    """

    kind: Literal["guess"] = "guess"
    pooled_dim: int = 384
    shape: tuple[int, int, int] = (32, 8, 8)
    width: int = 768
    dropout: float = 0.1
    noise: float = 0.5
    batch: int = 512
    optim: OptimSpec = field(default_factory=lambda: OptimSpec(lr=1e-3, warmup=100, steps=3000, decay=0.5))

    def __post_init__(self) -> None:
        if min(self.pooled_dim, *self.shape, self.width, self.batch) < 1:
            raise ValueError("guess: pooled_dim, shape, width and batch are 1 or more")
        if not 0 <= self.dropout < 1 or self.noise < 0:
            raise ValueError(f"guess: dropout {self.dropout} is in [0, 1), noise {self.noise} is 0 or more")


class LatentGuess(nn.Module):
    """Pooled text (b, p) to a latent (b, c, h, w)."""

    def __init__(self, spec: GuessSpec):
        super().__init__()
        self.spec = spec
        c, h, w = spec.shape
        self.layers = nn.Sequential(
            nn.Linear(spec.pooled_dim, spec.width),
            nn.SiLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(spec.width, spec.width),
            nn.SiLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(spec.width, c * h * w),
        )

    def forward(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b c h w"]:
        """The guess, about E[x_0 | text]."""
        return self.layers(pooled).unflatten(1, self.spec.shape)

    def into(self, cond: Cond, size: tuple[int, int] | None = None) -> Cond:
        """`cond` with the guess as its channels.

        Args:
            cond: with a pooled text.
            size: (height, width) of the latents that are drawn; None: those of the guess.

        Raises:
            ValueError: there is no pooled text.
        """
        if cond.pooled is None:
            raise ValueError("cond.pooled: the guess reads a pooled text, and this text encoder gives none")
        guess = self(cond.pooled).float()
        if size is not None and size != self.spec.shape[1:]:
            guess = F.interpolate(guess, size, mode="bilinear", align_corners=False)
        return replace(cond, channels=guess)


def noisy(cond: Cond, level: Float[Tensor, " b"], z: Float[Tensor, "b c h w"]) -> Cond:
    """`cond` with noise of standard deviation `level` on its channels, for the training of a U-Net."""
    assert cond.channels is not None
    return replace(cond, channels=cond.channels + level[:, None, None, None] * z)
