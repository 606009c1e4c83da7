"""Compiling a network for training, where this machine can: fewer passes over memory, after minutes of waiting.

Only the steps of training run compiled. What is drawn and validated on the way has other shapes, each of which would
take minutes again, so there the same network runs as it is.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import nn

COMPILER = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # that torch calls, where CXX names no other


def missing_compiler(device: torch.device) -> str:
    """What compiling for `device` needs and this machine lacks; "": nothing that can be seen."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "triton"
        there = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")  # with which triton builds
        return "" if there else "a C compiler (gcc or clang)"
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        return "" if shutil.which(named[0]) else f"the C++ compiler that CXX names, {named[0]},"
    return "" if shutil.which(COMPILER) else f"a C++ compiler ({COMPILER}, or another that CXX names)"


def cannot_compile(device: torch.device) -> str:
    """Why nothing can be compiled for `device` here, in words; "": a small function was. Takes seconds."""
    if device.type not in ("cpu", "cuda"):
        return f"PyTorch does not compile for {device.type} yet"
    if missing := missing_compiler(device):
        return f"{missing} is not on this machine"
    try:
        torch.compile(lambda x: (x * x).sum())(torch.ones(64, device=device, requires_grad=True)).backward()
    except Exception as error:  # of a compiler, a linker, a driver: each has its own
        return f"this machine cannot ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
    return ""


class CompiledSteps:
    """A network that runs compiled within a block, and as it is elsewhere.

    Args:
        net: its shapes are compiled when they are first met, within a block.
    """

    def __init__(self, net: nn.Module):
        self._net = net
        net.compile()
        self._call, net._compiled_call_impl = net._compiled_call_impl, None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Compiled within."""
        self._net._compiled_call_impl = self._call
        try:
            yield
        finally:
            self._net._compiled_call_impl = None
