"""Memory: what this process holds, what a computation would hold, and how it sounds when there is not enough."""

import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int:
    """Bytes of main memory that the process holds now; where that cannot be read, the most that it ever held."""
    return _field("VmRSS") or _most()


def most_resident() -> int:
    """The most bytes that it held since its start, or since `forget_most`."""
    return _field("VmHWM") or _most()


def forget_most() -> None:
    """Start counting `most_resident` from now, where the system can (Linux)."""
    if _RESET.exists():
        _RESET.write_text("5")


def _field(name: str) -> int:
    if not _STATUS.exists():
        return 0
    found = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(found[0]) if found else 0


def _most() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def lacks_memory(error: BaseException) -> bool:
    """Whether `error` says that there is not enough memory, of an accelerator or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)


def free_unused(device: torch.device) -> None:
    """Give back what an accelerator's allocator keeps for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def held_at_most(run: Callable[[], object]) -> int:
    """The most bytes of tensors that `run` makes and holds at a time.

    Meant for networks on the meta device, which know shapes and hold nothing: the count takes a moment, whatever the
    sizes. PyTorch's fused attention counts as its result, which is all that its kernels allocate.
    """
    with torch.no_grad(), _Held() as held:
        run()
    return held.most


class _Held(TorchFunctionMode):
    """Counts the storages of living tensors as functions of torch return them."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now = 0
        self.users: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = func is F.scaled_dot_product_attention
        out = torch.empty_like(args[0]) if fused else func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        self.most = max(self.most, self.now)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.users:
            self.users[key] = 0
            self.now += size
        self.users[key] += 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            del self.users[key]
            self.now -= size
