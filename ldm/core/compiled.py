"""Compiling a network for training, where this machine can: fewer passes over memory, after minutes of waiting.

Only the steps of training run compiled. What is drawn and validated on the way has other shapes, each of which would
take minutes again, so there the same network runs as it is.
"""

import os
import shlex
import shutil
import sys
from contextlib import AbstractContextManager
from importlib.util import find_spec

import torch
from torch import nn

COMPILER = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # that torch calls, where CXX names no other


def missing_compiler(device: torch.device) -> str:
    """What compiling for `device` needs and this machine lacks; "": nothing."""
    if device.type == "cuda":
        return "" if find_spec("triton") is not None else "triton"
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        return "" if shutil.which(named[0]) else f"the C++ compiler that CXX names, {named[0]},"
    return "" if shutil.which(COMPILER) else f"a C++ compiler ({COMPILER}, or another that CXX names)"


def compile_for_steps(net: nn.Module) -> None:
    """Let `net` run compiled within `compiled`, and as it is elsewhere, until `compile_no_more`."""
    net.compile()
    torch.compiler.set_stance("force_eager")


def compiled() -> AbstractContextManager[None]:
    """Where what was compiled runs compiled."""
    return torch.compiler.set_stance("default")


def compile_no_more() -> None:
    """Take back what `compile_for_steps` set for the process."""
    torch.compiler.set_stance("default")
