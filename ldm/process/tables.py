"""A discrete noise schedule as a table of log-SNR nodes, joined by straight lines."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ldm.core.ranges import FARTHEST, check_levels, time_within
from ldm.core.shapes import LogSNR, PerImage


@lru_cache(maxsize=64)
def logsnr_nodes(betas: tuple[float, ...]) -> tuple[float, ...]:
    """The T + 1 levels of a table of T betas, at t = 0, 1/T, ..., 1, strictly falling, nats.

    Node j >= 1 is the level after j steps: alpha_bar_j = prod_{i <= j} (1 - beta_i). A table says nothing about
    t < 1/T; node 0 is put at half the noise-to-signal ratio of node 1 (log 2 nats above it), which keeps every
    level finite for any T >= 1 and continues a table whose first betas are equal in nearly a straight line.

    Plain floats, so that the cache holds no tensor of some device or tracing mode.
    """
    log_alpha_bar, nodes = 0.0, []
    for beta in betas:
        log_alpha_bar += math.log1p(-beta)
        nodes.append(log_alpha_bar - math.log(-math.expm1(log_alpha_bar)))
    return (nodes[0] + math.log(2.0), *nodes)


def check_betas(betas: Sequence[float]) -> None:
    """Refuse an empty table or a beta outside (0, 1).

    Raises:
        ValueError: names the first bad beta. beta = 1 (no signal left) is `zero_terminal`'s business.
    """
    if not betas:
        raise ValueError("betas: the table is empty; give at least one beta in (0, 1)")
    for i, beta in enumerate(betas):
        if not 0.0 < beta < 1.0:
            raise ValueError(f"betas[{i}]: {beta} is outside (0, 1); for a noise-only last step use zero_terminal")


def check_steps(steps: int) -> None:
    """Refuse a schedule without steps.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1; a schedule has at least one step (1000 is usual)")


def check_ends(logsnr_min: float, logsnr_max: float) -> None:
    """Refuse ends, nats, that do not rise or that float32 cannot hold as ratios.

    Raises:
        ValueError: names both.
    """
    if not -FARTHEST <= logsnr_min < logsnr_max <= FARTHEST:
        raise ValueError(
            f"logsnr_min, logsnr_max: {logsnr_min}, {logsnr_max} must rise and lie in [-{FARTHEST}, {FARTHEST}] nats; "
            "try -15 and 15"
        )


def level_at(nodes: Sequence[float], t: PerImage) -> LogSNR:
    """Level at time t in [0, 1], linear between nodes.

    Raises:
        ValueError: a time outside [0, 1] (looked at on the CPU only, as everywhere here).
    """
    t = time_within(t)
    table = _like(nodes, t)
    position = t * (len(nodes) - 1)
    cell = position.floor().clamp(0, len(nodes) - 2)
    start, end = table[cell.long()], table[cell.long() + 1]
    return start + (position - cell) * (end - start)


def position_of(nodes: Sequence[float], logsnr: LogSNR) -> PerImage:
    """Node number of a level, fractional between nodes and an exact integer at them: T times `level_at`'s inverse.

    Beyond the ends the outer pieces go on as straight lines.

    Raises:
        ValueError: a level is not a number.
    """
    check_levels(logsnr)
    table = _like(nodes, logsnr)
    cell = (torch.searchsorted(-table, -logsnr.contiguous(), right=True) - 1).clamp(0, len(nodes) - 2)
    start, end = table[cell], table[cell + 1]
    return cell + (start - logsnr) / (start - end)


def slope_at(nodes: Sequence[float], t: PerImage) -> PerImage:
    """d logsnr / dt at time t: constant between nodes; at a node, that of the noisier side.

    Raises:
        ValueError: a time outside [0, 1].
    """
    t = time_within(t)
    table = _like(nodes, t)
    cell = (t * (len(nodes) - 1)).floor().clamp(0, len(nodes) - 2).long()
    return (table[cell + 1] - table[cell]) * (len(nodes) - 1)


def _like(nodes: Sequence[float], x: Tensor) -> Tensor:
    """The nodes beside `x`, copied there once: each copy from the host makes it wait until the device is idle."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return torch.tensor(nodes, dtype=x.dtype, device=x.device)  # within a trace, not to outlive it
    return _kept(tuple(nodes), x.dtype, x.device)


@lru_cache(maxsize=64)
def _kept(nodes: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else training could not use it
        return torch.tensor(nodes, dtype=dtype, device=device)
