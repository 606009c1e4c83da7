"""How narrow arithmetic may be: bfloat16 only where the machine computes in it at speed.

A CPU without the instructions runs a bfloat16 product slower than a float32 one: with AVX512 in twice the time, without
in many times. So the default is looked up, not assumed (`ldm.core.processor`).
"""

from typing import Literal

import torch
from torch import Tensor

from ldm.core.processor import processor

# Lightning's names, but for the first; the short ones are old, and finished models may have them
Precision = Literal[
    "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "bf16", "16", "64"
]
AUTO: Literal["auto"] = "auto"


def narrow(device: torch.device | str) -> torch.dtype:
    """bfloat16 where `device` is faster in it, else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        there = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.float32 if there else torch.bfloat16  # no card at all: tensors of FakeTensorMode
    return torch.bfloat16 if kind == "cpu" and processor().fast_bf16 else torch.float32


def in_float64(x: Tensor) -> Tensor:
    """`x` in float64, on its device or, where that has none (Apple's MPS), on the CPU."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def autocast(device: torch.device, dtype: torch.dtype | None = None) -> torch.autocast:
    """Arithmetic of networks on `device` in `dtype`; None: as narrow as pays. float32 leaves it as it is."""
    dtype = narrow(device) if dtype is None else dtype
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def for_training(precision: str, device: torch.device | str) -> str:
    """Lightning's name for `precision`: itself, or for "auto" what `narrow` says of `device`."""
    if precision != AUTO:
        return precision
    return "bf16-mixed" if narrow(device) == torch.bfloat16 else "32-true"


def dtype_of(precision: str, device: torch.device | str) -> torch.dtype:
    """What frozen networks compute in beside training at `precision`."""
    return torch.bfloat16 if for_training(precision, device) == "bf16-mixed" else torch.float32
