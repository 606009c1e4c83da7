"""Weights in one byte each, for storage: matrices and kernels as whole multiples of a step, one step for each row."""

from collections.abc import Mapping

import torch
from torch import Tensor

STEP = ".int8_step"  # ends the name of the tensor that holds the steps of a packed one
LARGEST = 127


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` with every floating-point tensor of two axes or more rounded to 8 bits, the others in bfloat16.

    A row is what belongs to one output: its step is its largest magnitude / 127, kept in float32, and no weight moves
    by more than half a step.
    """
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            packed[name] = weight
        elif weight.ndim < 2:
            packed[name] = weight.bfloat16()
        else:
            rows = weight.detach().float().flatten(1)
            step = rows.abs().amax(1) / LARGEST
            whole = (rows / step.clamp(min=1e-30)[:, None]).round().to(torch.int8)
            packed |= {name: whole.reshape(weight.shape), name + STEP: step}
    return packed


def unpack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack`, in float32; what was not packed stays as it is.

    Raises:
        ValueError: a packed tensor and its steps do not belong together.
    """
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        step = weights.get(name + STEP)
        if name.endswith(STEP):
            if name.removesuffix(STEP) not in weights:
                raise ValueError(f"{name}: steps of a tensor that is not there")
        elif step is None:
            found[name] = weight
        elif weight.dtype != torch.int8 or step.shape != weight.shape[:1]:
            raise ValueError(f"{name}: {weight.dtype} of shape {tuple(weight.shape)} with {tuple(step.shape)} steps")
        else:
            found[name] = (weight.flatten(1).float() * step[:, None]).reshape(weight.shape)
    return found
