"""Which device to compute on."""

from collections.abc import Callable

import torch


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else MPS, else the CPU.

    Raises:
        ValueError: unknown, or not on this machine.
    """
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found()))
    kind = name.partition(":")[0]
    if kind not in there or not there[kind]():
        found = ", ".join(kind for kind, found in there.items() if found())
        raise ValueError(f"--device: '{name}' is not on this machine; there is {found}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: '{name}' cannot be used ({reason}); try '{kind}'") from error
