"""Refusals of tensors whose numbers are out of range, made where looking at numbers costs next to nothing.

On an accelerator a look would make the host wait for the device in every step, and in a compiled graph or in a trace
there are no numbers to look at: there tensors are taken as they are, and what made them has checked its own input.
"""

import math

import torch
from torch import Tensor, nn

FARTHEST = 80  # nats from 0 for the ends of a schedule: float32 holds their ratios, up to exp(88), and some multiples
ROUNDING = 1e-5  # by which a time may leave [0, 1]: float32 inverses of a level do


def visible(*tensors: Tensor) -> bool:
    """Whether there are numbers and they lie on the CPU."""
    if torch.compiler.is_compiling():
        return False
    return all(x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) for x in tensors)  # no stand-ins of a trace


def _some(wrong: Tensor) -> bool:
    """Whether one is true; not where a transform of torch (vmap, make_fx) keeps its numbers to itself."""
    try:
        return bool(wrong.any())
    except RuntimeError:
        return False


def check_alike(**tensors: Tensor | None) -> None:
    """Refuse tensors of another shape than the first; None is left out. Shapes can be looked at on any device.

    Raises:
        ValueError: names the first that differs.
    """
    found = [(name, x.shape) for name, x in tensors.items() if x is not None]
    first, wanted = found[0]
    for name, shape in found[1:]:
        if shape != wanted:
            raise ValueError(f"{name}: shape {tuple(shape)}, but {first} has {tuple(wanted)}; give one for each number")


def check_within(name: str, x: Tensor, low: float, high: float, *, hint: str) -> None:
    """Refuse numbers outside [low, high], and nan.

    Args:
        name: of the argument, which starts the message.
        x: any shape.
        low, high: what is allowed, both among it.
        hint: what the numbers are, or what to give instead; ends the message.

    Raises:
        ValueError: names the first such number.
    """
    if visible(x):
        fine = (x >= low) & (x <= high)  # false for nan too
        if _some(~fine):
            raise ValueError(f"{name}: {x[~fine][0].item():g} is outside [{low:g}, {high:g}]; {hint}")


def check_not_negative(name: str, x: Tensor) -> None:
    """Refuse negative numbers; nan passes.

    Raises:
        ValueError: names the least.
    """
    if visible(x) and _some(x < 0):
        raise ValueError(f"{name}: {x[x < 0].min().item():g} is negative; give 0 or more")


def time_within(t: Tensor) -> Tensor:
    """Times in [0, 1], on any device; what rounding took beyond is put back.

    Raises:
        ValueError: names the first time that is further out, or none (looked at on the CPU only).
    """
    if visible(t):
        fine = (t >= -ROUNDING) & (t <= 1 + ROUNDING)
        if _some(~fine):
            raise ValueError(f"t: {t[~fine][0].item():g} is outside [0, 1]; 0 is data and 1 is noise")
    return t.clamp(0, 1)


def check_cleaner(logsnr_s: Tensor, logsnr_t: Tensor) -> None:
    """Refuse a step that does not lead from a noisier level t to a cleaner one s; the two broadcast.

    Raises:
        ValueError: names the first such pair.
    """
    if visible(logsnr_s, logsnr_t):
        wrong = ~(logsnr_s > logsnr_t)
        if _some(wrong):
            s, t = (x[wrong][0].item() for x in torch.broadcast_tensors(logsnr_s, logsnr_t))
            raise ValueError(
                f"logsnr_s, logsnr_t: {s:g}, {t:g} nats; s must be the cleaner level, with the higher log-SNR"
            )


def check_levels(logsnr: Tensor) -> None:
    """Refuse levels that are not a number; both infinities are levels.

    Raises:
        ValueError: there is one.
    """
    if visible(logsnr) and _some(torch.isnan(logsnr)):
        raise ValueError("logsnr: nan is no level; inf is clean data, -inf pure noise")


def check_falling(logsnr: Tensor, slope: Tensor) -> None:
    """Refuse levels that are not a number, and slopes d logsnr / dt that rise.

    Raises:
        ValueError: names the first such number.
    """
    check_levels(logsnr)
    hint = "a level falls with time; a learned one whose ends crossed wants a lower rate"
    check_within("slope", slope, -math.inf, 0.0, hint=hint)


def check_is_not(worst: float, logsnr: Tensor, *, hint: str) -> None:
    """Refuse one infinite level, and those that are not a number.

    Args:
        worst: the level that makes no sense, inf or -inf.
        logsnr: any shape.
        hint: why not.

    Raises:
        ValueError: there is one.
    """
    check_levels(logsnr)
    if visible(logsnr) and _some(logsnr == worst):
        raise ValueError(f"logsnr: {worst:g} is not possible here; {hint}")


def check_finite(name: str, x: Tensor, *, hint: str) -> None:
    """Refuse infinite numbers, and nan.

    Raises:
        ValueError: names the first such number.
    """
    if visible(x):
        fine = torch.isfinite(x)
        if _some(~fine):
            raise ValueError(f"{name}: {x[~fine][0].item():g} is not finite; {hint}")
