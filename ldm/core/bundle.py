"""Weights and the configuration that built them, in one safetensors file. Nothing is ever unpickled."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "ldm-bundle-1"


class BundleError(ValueError):
    """A weights file that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Bundle:
    """What a bundle file holds.

    Attributes:
        config: the resolved configuration as plain dictionaries; `config_io.from_dict` types it.
        weights: tensors by name.
        meta: anything else that belongs to the weights: latent statistics, training steps, metrics (JSON values).
        sha256: content hash of the tensors and configuration, by which other models name this one.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    meta: dict[str, Any]
    sha256: str


def save_bundle(path: str | Path, config: dict[str, Any], weights: Mapping[str, Tensor], **meta: Any) -> str:
    """Write a bundle atomically (temporary name, fsync, rename) and return its content hash.

    Args:
        path: the file to write; its folder must exist.
        config: plain dictionaries (`config_io.to_dict`).
        weights: tensors by name, any device; stored contiguous on the CPU in their own dtype.
        meta: JSON values to keep beside the weights.

    Raises:
        OSError: the folder is missing, not writable, or the disk is full; a previous file stays whole.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    digest = content_hash(config, tensors)
    header = {"format": FORMAT, "config": json.dumps(config), "meta": json.dumps(meta), "sha256": digest}
    write_tensors(Path(path), tensors, header)
    return digest


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: missing, truncated, pickled, or not a bundle of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise BundleError(f"{path}: the file is empty")
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise BundleError(f"{path}: a safetensors file, but not a bundle of this project; convert it first")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise BundleError(f"{path}: truncated or not a safetensors file ({error})") from error
    return Bundle(json.loads(header["config"]), weights, json.loads(header["meta"]), header["sha256"])


def content_hash(config: dict[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the configuration and every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, fsync it, then rename, so that `path` is never half written.

    Raises:
        OSError: not writable or disk full; the temporary file is removed.
    """
    with _replacing(path) as partial:
        partial.write_bytes(data)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as `write_atomically` does, without a second copy of it in memory.

    Raises:
        OSError: not writable or disk full; the temporary file is removed.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with _replacing(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # that of any file of the user; `save_file` would keep it private
        try:
            save_file(ready, partial, metadata=dict(metadata))
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error
        partial.chmod(mode)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; what was written there is then safe on the disk under `path`."""
    # of this process alone: containers that share a disk may have equal numbers, but not names as well
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows flushes only what it may write to
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # such as a full disk, which has no name
    finally:
        partial.unlink(missing_ok=True)


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file starts with the length of its header, whose bytes may be anything, and then a brace.
    if len(start) < 9:
        raise BundleError(f"{path}: {len(start)} bytes, truncated or not a safetensors file")
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        raise BundleError(f"{path}: a pickled checkpoint, which could run code when opened; convert it to safetensors")
