"""Lightning's trainer as both stages use it: checkpoints that resume, logs, and a stop at the first bad number."""

import math
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

LAST = "last.ckpt"


class DivergenceError(ValueError):
    """Training produced a number that is not finite."""


class StopAtBadNumbers(Callback):
    """Ends training at the first loss that is not finite, before the weights of the last checkpoint are replaced."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the loss that was just logged."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not math.isfinite(float(loss)):
            name = first_bad_tensor(pl_module)
            raise DivergenceError(
                f"step {trainer.global_step}: the loss is {float(loss)}; first tensor that is not finite: {name}; "
                f"the last good checkpoint is kept, lower optim.lr and run the same command to resume from it"
            )


class Progress(Callback):
    """One line every `every` steps, for logs that are files."""

    def __init__(self, every: int = 50):
        self.every, self._began, self._first = every, 0.0, 0
        self._done = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print step, seconds and what is logged."""
        self._done += 1
        if self._done % self.every == 0:
            pace = (time.monotonic() - self._began) / self._done
            shown = {k: f"{float(v):.4f}" for k, v in sorted(trainer.callback_metrics.items()) if "latent" not in k}
            trainer.print(f"step {trainer.global_step} {pace:.2f} s/step", shown, flush=True)


def first_bad_tensor(module: nn.Module) -> str:
    """Name of the first parameter or gradient of `module` that is not finite, or "none of the weights"."""
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            return name
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"gradient of {name}"
    return "none of the weights"


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
        raise ValueError(f"{path}: the checkpoint cannot be read ({error}); remove it to start again") from error


def make_trainer(out: Path, *, steps: int, precision: str, validate_every: int, save_every: int = 200) -> Any:
    """A trainer that writes to `out`: TensorBoard logs and `last.ckpt` every `save_every` steps and on Ctrl-C."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=save_every, enable_version_counter=False)
    return lightning.Trainer(
        default_root_dir=out,
        accelerator="auto",
        devices=1,
        max_steps=steps,
        precision=precision,  # type: ignore[arg-type]
        logger=TensorBoardLogger(out, name="", version="logs"),
        callbacks=[checkpoint, StopAtBadNumbers(), Progress()],
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
