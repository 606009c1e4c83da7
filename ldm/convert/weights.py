"""Tensors of a weights file that somebody else made, read without ever running code from it."""

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.core.bundle import BundleError

# What training programs leave in a checkpoint beside its tensors. It is read as `Inert` and thrown away.
HARMLESS = ("pytorch_lightning.", "lightning.", "numpy.dtype", "numpy.core.multiarray.", "numpy._core.multiarray.")


class Inert:
    """Stands for an object of a pickle that is not needed; takes any arguments and does nothing with them."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds.

    Attributes:
        path: where it is.
        tensors: by name, on the CPU in their own dtype, mapped from the file: read when they are used.
        metadata: of a safetensors file; empty for others.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_weights(path: Path, *, allow_pickle: bool = False) -> WeightsFile:
    """Open a weights file; what it is, is read from its content, not from its name.

    Args:
        path: a safetensors file, or one written by `torch.save`.
        allow_pickle: read a file of `torch.save` too: its tensors alone, by `torch.load(weights_only=True)`, which runs
            nothing from the file.

    Raises:
        BundleError: missing, empty, truncated, of another kind, pickled without the flag, or a pickle that asks for
            more than tensors.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise BundleError(f"{path}: the file is empty")
    if start[8:9] == b"{":  # the length of the header, then the header in JSON
        return _read_safetensors(path)
    if start.startswith((b"PK", b"\x80")):
        _check_pickle_is_meant(path, allow_pickle)
        return WeightsFile(path, _tensors_of(_unpickled(path), path), {})
    if start.startswith(b"version https"):
        raise BundleError(f"{path}: a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
    kind = (
        "a GGUF file, which is not supported" if start.startswith(b"GGUF") else "neither safetensors nor a checkpoint"
    )
    raise BundleError(f"{path}: {kind}; the file may be damaged or of another program")


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return WeightsFile(path, tensors, file.metadata() or {})
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: truncated or not a safetensors file ({_first_line(error)})") from error


def _check_pickle_is_meant(path: Path, allow_pickle: bool) -> None:
    if path.suffix.lower() == ".safetensors":
        raise BundleError(
            f"{path}: a pickled checkpoint under the name of a safetensors file; do not trust it where it came from "
            "somebody else, and rename it to .ckpt if you made it"
        )
    if not allow_pickle:
        raise BundleError(
            f"{path}: a pickled checkpoint, which can run code in programs that open it carelessly; give "
            "--allow-pickle to read its tensors and nothing else, or take a .safetensors file of the same weights"
        )


def _unpickled(path: Path) -> Any:
    """The object in the file, with tensors as they are and nothing else but plain values and `Inert`.

    Every way in which a damaged pickle fails is the same to the user, and they are many: hence `Exception`.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    except Exception as error:
        raise BundleError(f"{path}: truncated or not a checkpoint ({_first_line(error)})") from error
    wrong = [name for name in asked if not name.startswith(HARMLESS)]
    if wrong:
        raise _asks_for_more(path, wrong)
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in asked]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that torch does not read; the error says so
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        # Not torch's own message: it advises to load the file without this protection.
        more = re.findall(r"GLOBAL:? (\S+)", str(error))
        if more:
            raise _asks_for_more(path, more) from error
        if "Unsupported operand" in str(error):
            raise BundleError(
                f"{path}: a damaged pickle, or one in another protocol than torch.save's own 2, which is all that is "
                "read; nothing in it was run"
            ) from error
        raise BundleError(f"{path}: truncated or not a checkpoint; nothing in it was run") from error


def _asks_for_more(path: Path, names: Sequence[str]) -> BundleError:
    return BundleError(f"{path}: the pickle asks for {', '.join(names)}, which no weights need; nothing in it was run")


def _tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what `torch.save` was given: itself, or under "state_dict"."""
    held = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    held = held if isinstance(held, Mapping) else {}
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not tensors:
        raise BundleError(f"{path}: a pickled file without tensors by name; give a checkpoint of a model")
    return tensors


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:150] if lines else type(error).__name__
