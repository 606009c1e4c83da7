"""A small hierarchical VAE with learned levels: each conditional is a Gaussian whose moments a small MLP gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.gaussian import Gaussian, log_prob, sample
from ldm.core.shapes import PerImage

LOG_VAR_RANGE = (-15.0, 10.0)  # keeps exp finite, and a level from becoming a point, in float32


@dataclass(frozen=True, kw_only=True)
class HierarchySpec:
    """Shape of a `HierarchicalVAE`.

    Attributes:
        kind: tells it from others where it is saved.
        data_dim: numbers in x.
        latent_dims: numbers in z_1, ..., z_T; its length is the number of levels.
        width: of each MLP's hidden layer.
    """

    kind: Literal["hierarchical_vae"] = "hierarchical_vae"
    data_dim: int
    latent_dims: tuple[int, ...]
    width: int = 64

    def __post_init__(self) -> None:
        if self.data_dim < 1:
            raise ValueError(f"data_dim: {self.data_dim} is not possible; give 1 or more")
        if not self.latent_dims or min(self.latent_dims) < 1:
            raise ValueError(f"latent_dims: {self.latent_dims} is not possible; give at least one, each 1 or more")
        if self.width < 1:
            raise ValueError(f"width: {self.width} is not possible; give 1 or more")


class GaussianLevel(nn.Module):
    """The Gaussian of one state given its neighbour: a linear mean, plus what a hidden layer adds to both moments.

    It starts at unit variance, with the hidden layer adding nothing.
    """

    def __init__(self, dim_in: int, dim_out: int, width: int):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)
        self.hidden = nn.Linear(dim_in, width)
        self.moments = nn.Linear(width, 2 * dim_out)
        nn.init.zeros_(self.moments.weight)
        nn.init.zeros_(self.moments.bias)

    def forward(self, state: Float[Tensor, "b dim_in"]) -> Gaussian:
        """Mean and variance (b, dim_out)."""
        change, log_var = self.moments(nn.functional.silu(self.hidden(state))).chunk(2, dim=1)
        return Gaussian(self.linear(state) + change, log_var.clamp(*LOG_VAR_RANGE).exp())


class HierarchicalVAE(nn.Module):
    """The conditionals of a T-level hierarchical VAE, over a prior p(z_T) = N(0, I).

    It knows no bound: `ldm.process.hierarchy.Hierarchy` takes its parts, as

        Hierarchy(encoders=vae.encoders, decoders=vae.decoders, log_likelihood=vae.log_likelihood)

    Source: lecture, "Introduction" (Markovian hierarchical VAE); Kingma and Welling 2014 (arXiv:1312.6114) for T = 1.
    """

    def __init__(self, spec: HierarchySpec):
        super().__init__()
        self.spec = spec
        dims = [spec.data_dim, *spec.latent_dims]
        self.up = nn.ModuleList(GaussianLevel(below, above, spec.width) for below, above in pairwise(dims))
        self.down = nn.ModuleList(GaussianLevel(above, below, spec.width) for below, above in pairwise(dims))

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        """q(z_1 | x), ..., q(z_T | z_{T-1})."""
        return tuple(self.up)

    @property
    def decoders(self) -> tuple[nn.Module, ...]:
        """p(z_1 | z_2), ..., p(z_{T-1} | z_T)."""
        return tuple(self.down)[1:]

    def log_likelihood(self, x: Float[Tensor, "b data"], z: Float[Tensor, "b latent"]) -> PerImage:
        """log p(x | z_1), nats (b,)."""
        return log_prob(self.down[0](z), x)

    def sample(self, eps: Sequence[Tensor]) -> Float[Tensor, "b data"]:
        """Draws of x (b, data_dim), from the prior down.

        Args:
            eps: standard normals for x, z_1, ..., z_T, each (b, its dimension).

        Raises:
            ValueError: not T + 1 of them.
        """
        if len(eps) != len(self.down) + 1:
            raise ValueError(f"eps: {len(eps)} noises; give {len(self.down) + 1}, for x and each level")
        state = eps[-1]
        for level, noise in zip(reversed(self.down), reversed(eps[:-1]), strict=True):
            state = sample(level(state), noise)
        return state
