"""Which levels to visit with a given number of steps: the path of least cost through a table of steps.

The nodes of a table are numbered 0 .. T from clean data to the noisiest level; `cost[t, s]` is what the step from
node t to the cleaner node s < t adds to the bound, nats. `cost[t, 0]` is then the reconstruction term from node t.
The prior term is the same for every path and stays outside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

Cost = Float[Tensor, "nodes nodes"]


@dataclass(frozen=True)
class Path:
    """The nodes that are left by a step, from the cleanest to the noisiest: one network evaluation each.

    Args:
        indices: node numbers, rising, at least one, each 1 or more. The last step leads from `indices[0]` to clean
            data. Where the nodes are all timesteps of a schedule, `ldm.process.grid.chosen` takes them less one.
        nats: the path's cost.

    Raises:
        ValueError: no step, a repeated or an unsorted one, or one from clean data.
    """

    indices: tuple[int, ...]
    nats: float

    def __post_init__(self) -> None:
        if not self.indices or self.indices[0] < 1:
            raise ValueError(f"indices: {self.indices}; a path leaves at least one node, and none below 1")
        for before, index in pairwise(self.indices):
            if not before < index:
                what = "is repeated" if before == index else f"comes after {before}"
                raise ValueError(f"indices: {index} {what}; give every node once, rising")

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.indices)


def optimal_path(cost: Cost, steps: int) -> Path:
    """The cheapest path from node T to clean data in exactly `steps` steps; see `optimal_paths`."""
    return optimal_paths(cost, steps)[-1]


def optimal_paths(cost: Cost, most: int) -> tuple[Path, ...]:
    """The cheapest paths of 1, 2, ..., `most` steps from node T to clean data, all from one dynamic programme.

        best[k, t] = min_{s < t} best[k - 1, s] + cost[t, s],   best[0, 0] = 0

    The path of T steps is the full one, whose cost is the sum of all neighbouring steps. Fewer steps are usually
    dearer, but not for every table.

    Source: Watson et al. 2021 (arXiv:2106.03802) Algorithms 1 and 2. Followed literally, their Algorithm 2 begins to
    read the path at node K; it must begin at T and read K steps.

    Args:
        cost: (T + 1, T + 1), nats; only entries below the diagonal are read. inf forbids a step.
        most: the largest number of steps, 1 .. T.

    Returns:
        `most` paths; number k - 1 has k steps.

    Raises:
        ValueError: the table is smaller than 2 x 2 or not square, an entry below its diagonal is nan, `most` is outside
            1 .. T, or there is no path of finite cost with some number of steps.
    """
    table = _checked(cost)
    last = len(table) - 1
    if not 1 <= most <= last:
        raise ValueError(f"steps: {most} is not in 1..{last}, the nodes of the table besides clean data")
    best = torch.full((last + 1,), math.inf, dtype=table.dtype)
    best[0] = 0.0
    came_from: list[Int[Tensor, " nodes"]] = []
    costs = []
    for _ in range(most):
        best, previous = (best + table).min(dim=1)
        came_from.append(previous)
        costs.append(best[last].item())
    return tuple(Path(_read_back(came_from[:k], last, cost_k), cost_k) for k, cost_k in enumerate(costs, start=1))


def path_along(cost: Cost, indices: Sequence[int]) -> Path:
    """The path through given nodes, with its cost in this table.

    Raises:
        ValueError: as `Path`, or a node outside the table.
    """
    table = _checked(cost)
    if indices and max(indices) >= len(table):
        raise ValueError(f"indices: {max(indices)} is outside the table's nodes 0..{len(table) - 1}")
    path = Path(tuple(indices), 0.0)
    return Path(path.indices, sum(table[t, s].item() for s, t in pairwise((0, *path.indices))))


def even(last: int, steps: int) -> tuple[int, ...]:
    """`steps` nodes evenly spaced up to node `last`, which is among them.

    Raises:
        ValueError: `steps` outside 1 .. `last`.
    """
    return _powers(last, steps, 1)


def quadratic(last: int, steps: int) -> tuple[int, ...]:
    """`steps` nodes at evenly spaced square roots up to node `last`: dense near the data.

    Where squares would repeat a node the next one is taken. Source: Song et al. 2021 (arXiv:2010.02502) appendix D.

    Raises:
        ValueError: `steps` outside 1 .. `last`.
    """
    return _powers(last, steps, 2)


def _powers(last: int, steps: int, power: int) -> tuple[int, ...]:
    if not 1 <= steps <= last:
        raise ValueError(f"steps: {steps} is not in 1..{last}")
    whole = steps**power
    return tuple(max(i, (2 * last * i**power + whole) // (2 * whole)) for i in range(1, steps + 1))


def _checked(cost: Cost) -> Cost:
    """The table with every step that does not lead down forbidden, float64 on the CPU."""
    n = len(cost)
    if n < 2 or cost.shape != (n, n):
        shape = " x ".join(map(str, cost.shape))
        raise ValueError(f"cost: {shape}; a table is square, with clean data and at least one noisy node")
    table = cost.detach().cpu().double()
    below = torch.ones(n, n, dtype=torch.bool).tril(-1)
    if torch.isnan(table[below]).any():
        raise ValueError("cost: an entry below the diagonal is nan; measure the table again")
    return table.masked_fill(~below, math.inf)


def _read_back(came_from: Sequence[Tensor], last: int, cost: float) -> tuple[int, ...]:
    if not cost < math.inf:
        raise ValueError(f"cost: no path of {len(came_from)} steps has a finite cost; fewer entries may be inf")
    indices, node = [], last
    for previous in reversed(came_from):
        indices.append(node)
        node = int(previous[node])
    assert node == 0, "a path of finite cost ends at clean data"
    return tuple(reversed(indices))
