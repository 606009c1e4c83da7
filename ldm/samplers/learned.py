"""A sampler whose levels and weights are numbers to be learned: every step is linear in x and in all estimates so far.

DDIM and DPM-Solver++(2M) are members of the family, so learning can start from either and only gain.
Source: Watson et al. 2022 (arXiv:2202.05830) section 4, "generalized Gaussian diffusion models", without fresh noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim, dpm_solver
from ldm.samplers.dpm_solver import Estimate
from ldm.samplers.loop import OnStep, Sampler, Step, steps_of

MEMORY = 4  # estimates that a stored sampler weighs in a step


@dataclass(frozen=True, eq=False)
class Coefficients:
    """n steps, one evaluation each:

        x_(i+1) = keep_i x_i + sum_(j <= i) pull_ij x0_hat_j,   x0_hat_j = denoise(x_j, logsnr_j)

    Attributes:
        logsnr: levels at which the denoiser is asked (n,), nats, finite and rising.
        keep: weight of the latent (n,).
        pull: weights of the estimates (n, n); what is above the diagonal is not read.

    Raises:
        ValueError: shapes disagree, or levels are not finite or do not rise.
    """

    logsnr: Float[Tensor, " n"]
    keep: Float[Tensor, " n"]
    pull: Float[Tensor, "n n"]

    def __post_init__(self) -> None:
        n = len(self.logsnr)
        if n < 1 or self.keep.shape != (n,) or self.pull.shape != (n, n):
            shapes = f"{tuple(self.keep.shape)} and {tuple(self.pull.shape)}"
            raise ValueError(f"keep, pull: {shapes} for {n} levels; give (n,) and (n, n), at least one level")
        if not bool(torch.isfinite(self.logsnr).all()) or bool((self.logsnr.diff() <= 0).any()):
            raise ValueError(f"logsnr: {self.logsnr.tolist()} are not finite and rising; noise comes first")

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.logsnr)

    def grid(self) -> TimeGrid:
        """The levels that are visited, and clean data at the end."""
        return TimeGrid(torch.cat([self.logsnr.double(), torch.tensor([math.inf], dtype=torch.float64)]))

    def recent(self) -> list[list[float]]:
        """Of each step the weights of at most `MEMORY` estimates, oldest first.

        Raises:
            ValueError: a step weighs an older one, which a stored sampler cannot.
        """
        rows = self.pull.tolist()
        older = [i for i, row in enumerate(rows) if any(row[: max(0, i + 1 - MEMORY)])]
        if older:
            raise ValueError(f"pull: step {older[0]} weighs more than the last {MEMORY} estimates, which can be stored")
        return [row[max(0, i + 1 - MEMORY) : i + 1] for i, row in enumerate(rows)]


def remembered(logsnr: Sequence[float], keep: Sequence[float], recent: Sequence[Sequence[float]]) -> Coefficients:
    """The inverse of `Coefficients.recent`.

    Raises:
        ValueError: the lists do not fit each other.
    """
    n = len(logsnr)
    if [len(row) for row in recent] != [min(i + 1, MEMORY) for i in range(n)] or len(keep) != n:
        raise ValueError(f"recent: {[len(row) for row in recent]} weights and {len(keep)} of x for {n} levels")
    pull = torch.zeros(n, n, dtype=torch.float64)
    for i, row in enumerate(recent):
        pull[i, i + 1 - len(row) : i + 1] = torch.tensor(row, dtype=torch.float64)
    return Coefficients(torch.tensor(logsnr, dtype=torch.float64), torch.tensor(keep, dtype=torch.float64), pull)


def as_sampler(coefficients: Coefficients) -> Sampler:
    """`sample` as every other sampler is called; it refuses a grid that is not its own."""

    def matched(
        denoise: Denoiser,
        x: Latent,
        grid: TimeGrid,
        noise: NoiseStream | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> Latent:
        if not torch.equal(grid.logsnr, coefficients.grid().logsnr):
            raise ValueError("grid: these coefficients belong to other levels; use the grid that they come with")
        return sample(denoise, x, coefficients, on_step=on_step)

    return matched


def like_ddim(grid: TimeGrid) -> Coefficients:
    """The coefficients with which `sample` is DDIM (eta = 0) on a grid of finite levels that ends anywhere."""
    return _of(grid, multistep=False)


def like_dpm_solver(grid: TimeGrid) -> Coefficients:
    """The coefficients with which `sample` is DPM-Solver++(2M) on a grid of finite levels that ends anywhere."""
    return _of(grid, multistep=True)


def sample(denoise: Denoiser, x: Latent, coefficients: Coefficients, *, on_step: OnStep | None = None) -> Latent:
    """Run all steps; differentiable in the coefficients, and in x.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the first level.
        coefficients: the sampler.
        on_step: called after each step.

    Returns:
        Latents (b, *d) at clean data, if the coefficients were learned or taken from a grid that ends there.
    """
    estimates: list[Latent] = []
    for i in range(len(coefficients)):
        x_t, level = x, coefficients.logsnr[i].to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        estimates.append(denoise(x, level.expand(len(x))).x0)
        x = coefficients.keep[i].to(x) * x_t
        for weight, x0_hat in zip(coefficients.pull[i], estimates, strict=False):
            x = x + weight.to(x) * x0_hat
        if on_step is not None:
            on_step(Step(i, len(coefficients), float(level), x_t, estimates[-1]))
    return x


def _of(grid: TimeGrid, *, multistep: bool) -> Coefficients:
    """A step is linear in all it is given, so its weights are what it makes of one 1 and otherwise zeros."""
    n, one, zero = len(grid), torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    keep, pull = torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    before: float | None = None
    for i, t, s in steps_of(grid):
        keep[i] = ddim.step(one, zero, t, s).item()
        previous = None if before is None or not multistep else before
        if previous is None:
            pull[i, i] = ddim.step(zero, one, t, s).item()
        else:
            pull[i, i] = dpm_solver.step(zero, one, t, s, previous=Estimate(zero, previous)).item()
            pull[i, i - 1] = dpm_solver.step(zero, zero, t, s, previous=Estimate(one, previous)).item()
        before = t
    return Coefficients(grid.logsnr[:-1].clone(), keep, pull)
