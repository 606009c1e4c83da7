"""Fit a sampler of few steps to exact trajectories of a model: where to look, and how to weigh what was seen.

A step of any multistep solver is a weighted sum of the latent and of the last estimates. Solvers take the weights from
a polynomial; here they are those that land nearest to the trajectory, by least squares over many latents, step after
step, each from where the steps before really led. No gradient passes through the network: a sampler of N steps costs N
evaluations to fit.

Source: the family is that of Watson et al. 2022 (arXiv:2202.05830) section 4; fitting to trajectories instead of to a
distance between sets of pictures is Zhou et al. 2024 (arXiv:2312.00094) and others, there by gradient descent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.precision import in_float64
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import dpm_solver
from ldm.samplers.learned import MEMORY, Coefficients
from ldm.samplers.loop import Step, per_image

RIDGE = 1e-10  # of the normal equations, relative: estimates of neighbouring levels are nearly the same


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Where the exact flow leads.

    Attributes:
        levels: nodes, noise first, the last one clean data (inf).
        at: latents at the nodes (nodes, b, *d).
        estimate: x0_hat at all nodes but the last (nodes - 1, b, *d).
    """

    levels: tuple[float, ...]
    at: Float[Tensor, "nodes b *d"]
    estimate: Float[Tensor, "steps b *d"]

    def at_level(self, logsnr: float) -> Latent:
        """The latents at a node."""
        return self.at[self.levels.index(logsnr)]


@torch.no_grad()
def follow(denoise: Denoiser, x: Latent, grid: TimeGrid) -> Trajectories:
    """The flow from `x` through every level of a fine grid that ends at clean data, by a third-order solver."""
    steps: list[Step] = []
    end = dpm_solver.sample(denoise, x, grid, order=3, on_step=steps.append)
    at = torch.stack([*(step.x_t for step in steps), end])
    return Trajectories(tuple(grid.logsnr.tolist()), at, torch.stack([step.x0_hat for step in steps]))


@torch.no_grad()
def fit(denoise: Denoiser, path: Sequence[float], exact: Trajectories) -> tuple[Coefficients, float]:
    """The best weights along a path, and how far from the exact end they lead: root mean square over all numbers.

    Args:
        denoise: the one whose trajectories these are.
        path: levels to look at, noise first, nodes of `exact` without the clean one; the first is its first.
        exact: trajectories to stay on.

    Raises:
        ValueError: `path` does not start where the trajectories do.
    """
    if not path or path[0] != exact.levels[0]:
        raise ValueError(f"path: it starts at {path[0] if path else 'nothing'}, the trajectories at {exact.levels[0]}")
    n, x = len(path), exact.at[0]
    keep, pull = torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    known: list[Latent] = []
    for i, level in enumerate(path):
        known.append(denoise(x, per_image(level, x)).x0)
        terms = [x, *known[-MEMORY:]]
        goal = exact.at_level(path[i + 1]) if i + 1 < n else exact.at[-1]
        found = _least_squares(terms, goal)
        keep[i] = found[0]
        pull[i, i + 2 - len(terms) : i + 1] = found[1:]
        x = sum((w.item() * term for w, term in zip(found, terms, strict=True)), torch.zeros_like(x))
    return Coefficients(torch.tensor(path, dtype=torch.float64), keep, pull), rms(x - exact.at[-1])


def best_paths(exact: Trajectories, most: int, power: float) -> list[tuple[float, ...]]:
    """For 1, 2, ... `most` steps the path whose fitted steps leave the trajectories least, without further evaluations.

    A step from node j to n, after one from i, is fitted to start on the trajectory and to see the estimates at j and i.
    What it misses, as a root mean square, counts alpha_bar_n^(power / 2); the sum along a path is minimised by dynamic
    programming over pairs of nodes.

    Args:
        exact: trajectories.
        most: longest path, at most the number of nodes but one.
        power: 0 counts misses at all levels alike, more those at clean levels.

    Raises:
        ValueError: `most` outside of its range.
    """
    nodes = len(exact.levels) - 1
    if not 1 <= most <= nodes:
        raise ValueError(f"most: {most} is not in 1..{nodes}, the levels that were visited")
    first, later = _misses(exact)
    counted = torch.tensor(exact.levels, dtype=torch.float64).sigmoid() ** (power / 2)
    first, later = first * counted, later * counted
    # best[i, j]: least cost of arriving at j by a step from i, in as many steps as rounds so far
    best = torch.full((nodes, nodes + 1), math.inf, dtype=torch.float64)
    best[0] = first
    paths: list[tuple[float, ...]] = [(exact.levels[0],)]
    came_from: list[Tensor] = []
    for _ in range(1, most):
        total = best[:, :nodes, None] + later  # from i by j to n
        best, source = total.min(0)
        came_from.append(source)
        paths.append(_traced(int(best[:, nodes].argmin()), came_from, exact.levels))
    return paths


def rms(x: Tensor) -> float:
    """Root mean square of all numbers."""
    return in_float64(x).square().mean().sqrt().item()


def _traced(last: int, came_from: list[Tensor], levels: tuple[float, ...]) -> tuple[float, ...]:
    """The levels of the path whose last step leads from node `last` to the clean end."""
    path, j, n = [last], last, len(levels) - 1
    for source in reversed(came_from):
        j, n = int(source[j, n]), j
        path.append(j)
    return tuple(levels[node] for node in reversed(path))


def _misses(exact: Trajectories) -> tuple[Tensor, Tensor]:
    """Root mean square misses of the first step to each node (n) and of later ones (i, j, n); inf where impossible."""
    nodes = len(exact.levels) - 1
    rows = in_float64(torch.cat([exact.at.flatten(1), exact.estimate.flatten(1)]))
    gram = (rows @ rows.T).cpu() / rows.shape[1]
    x, m = torch.arange(nodes + 1), nodes + 1 + torch.arange(nodes)
    first = torch.full((nodes + 1,), math.inf, dtype=torch.float64)
    first[1:] = _left(gram, torch.stack([x[0], m[0]]), x[1:])
    later = torch.full((nodes, nodes, nodes + 1), math.inf, dtype=torch.float64)
    for j in range(1, nodes):
        for i in range(j):
            later[i, j, j + 1 :] = _left(gram, torch.stack([x[j], m[j], m[i]]), x[j + 1 :])
    return first, later


def _left(gram: Tensor, known: Tensor, goals: Tensor) -> Tensor:
    """What the best weighted sums of `known` leave of each of `goals`, from products of all with all."""
    matrix = gram[known][:, known]
    matrix = matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(known), dtype=matrix.dtype)
    towards = gram[known][:, goals]
    explained = (towards * torch.linalg.solve(matrix, towards)).sum(0)
    return (gram.diagonal()[goals] - explained).clamp(min=0).sqrt()


def _least_squares(terms: Sequence[Latent], goal: Latent) -> Tensor:
    rows = torch.stack([term.flatten() for term in terms]).cpu().double()
    matrix = rows @ rows.T
    matrix = matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(rows), dtype=torch.float64)
    return torch.linalg.solve(matrix, rows @ goal.flatten().cpu().double())
