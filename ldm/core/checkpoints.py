"""Checkpoints of a training: written whole or not at all, the last of them kept, and read to go on."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from ldm.core.optim import OptimSpec, decays

LAST = "last.ckpt"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a killed run never leaves half of one.

    Each also stays under a name with its step, the last `keep` of them: to go back to one, remove `last.ckpt` and only
    then copy it there. The newest is one file by two names, and a copy over the one would be written into both.
    """

    def __init__(self, keep: int = 1):
        self._keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write, fsync, rename.

        Raises:
            OSError: not writable or the disk is full; the former checkpoint is whole and the new one gone.
        """
        partial = Path(f"{path}.part")
        try:
            with partial.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # torch's word for whatever the file said
                    if isinstance(error.__context__, OSError):
                        raise error.__context__ from None
                    raise
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise OSError(
                f"{path}: not written ({error.strerror or error}); the former checkpoint is whole: make room, "
                "and run the same command to resume from it"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        self._stay(Path(path), checkpoint["global_step"])

    def _stay(self, path: Path, step: int) -> None:
        """Give the checkpoint a second name, without a second copy where the disk can, and remove the oldest."""
        named = path.with_name(f"step-{step:08}.ckpt")
        if self._keep > 1 and not (named.exists() and named.samefile(path)):
            partial = named.with_suffix(".part")
            partial.unlink(missing_ok=True)
            try:
                partial.hardlink_to(path)
            except OSError:  # a disk without such links, as memory cards and some shares
                _copy(path, partial)
            partial.replace(named)
            partial.unlink(missing_ok=True)  # which stays where both were one file already
        # by age: in a folder that was begun again, or taken back to an older checkpoint, the new ones have lower steps
        written = sorted(path.parent.glob("step-*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
        for old in written[: -self._keep if self._keep > 1 else None]:
            old.unlink()


def _copy(path: Path, copy: Path) -> None:
    try:
        shutil.copyfile(path, copy)
    except OSError as error:
        copy.unlink(missing_ok=True)
        raise OSError(
            f"{copy}: not written ({error.strerror or error}); {path} is whole: make room for a second copy, or set "
            "keep to 1, and run the same command to resume from it"
        ) from error


def steps_done(out: Path) -> int:
    """Optimiser steps of the checkpoint in `out` that a run would resume from; 0 if there is none.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    path = out / LAST
    if not path.is_file():
        return 0
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:
        raise ValueError(
            f"{path}: the checkpoint cannot be read ({error}); remove it, and the step-*.ckpt of its age, which is the "
            f"same file; then copy the one before to {LAST}, or start again"
        ) from error


def use_settings(checkpoint: dict[str, Any], spec: OptimSpec) -> None:
    """Let a resumed run learn as it is configured now: without this the checkpoint's settings would silently win."""
    for optimizer, schedule in zip(checkpoint["optimizer_states"], checkpoint["lr_schedulers"], strict=True):
        rate = spec.lr * spec.factor(schedule["last_epoch"])
        for group, decay in zip(optimizer["param_groups"], decays(spec), strict=True):
            group |= {"lr": rate, "initial_lr": spec.lr, "betas": spec.betas, "weight_decay": decay}
        schedule["base_lrs"] = [spec.lr] * len(schedule["base_lrs"])
        schedule["_last_lr"] = [rate] * len(schedule["base_lrs"])
