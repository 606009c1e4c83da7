"""Lightning's trainer as both stages use it: checkpoints that resume, logs, and a stop at the first bad number."""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from ldm.core.checkpoints import LAST, WholeCheckpoints
from ldm.core.device import pick_device
from ldm.core.distributed import TrainerSpec, answering, world
from ldm.core.divergence import StopAtBadNumbers
from ldm.core.precision import for_training
from ldm.core.sharded import FullySharded


class StopRequested(Exception):
    """Ctrl-C was pressed, or the end was asked for, and the checkpoint is written."""


class StopWhenAsked(Callback):
    """On Ctrl-C, or a scheduler's SIGTERM, the step is finished and a checkpoint written; Ctrl-C then stops at once."""

    def __init__(self, path: Path):
        self._path, self._asked = path, False
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Listen, which only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {asked: signal.signal(asked, self._ask) for asked in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop if asked to."""
        if world().size > 1:  # all of them stop after the same step
            self._asked = trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        if self._asked:
            trainer.save_checkpoint(self._path)
            raise StopRequested(
                f"after step {trainer.global_step}, which is saved; the same command goes on from there"
            )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop listening."""
        for asked, before in self._before.items():
            signal.signal(asked, before)
        self._before = {}

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop listening."""
        self.teardown(trainer, pl_module, "fit")

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler and its launcher may both send it
        if world().first:
            sys.stderr.write("stopping after this step; Ctrl-C again stops at once\n")


class Progress(Callback):
    """Throughput in the logs; where there is no terminal for a progress bar, a line now and then."""

    def __init__(self, out: Path, every: int = 50):
        self._out, self._every, self._began, self._done = out, every, 0.0, 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock, and say what begins."""
        self._began = time.monotonic()
        learned = sum(p.numel() for p in pl_module.parameters() if p.requires_grad) / 1e6
        where = f"from step {trainer.global_step} of" if trainer.global_step else "from the start,"
        trainer.print(f"{self._out}: {where} {trainer.max_steps} steps, {learned:.1f} M parameters, {pl_module.device}")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log steps per second; print step, seconds, what is left and what is logged."""
        self._done += 1
        pace = (time.monotonic() - self._began) / self._done
        pl_module.log("train/steps_per_second", 1 / pace)
        step, steps = trainer.global_step, trainer.max_steps
        every = min(self._every, max(1, steps // 10))  # a short run says something too
        if (step % every == 0 or step == steps) and not sys.stderr.isatty():
            left = timedelta(seconds=round(pace * (steps - step)))
            self._print(trainer, "train", f"{pace:.2f} s/step, {left} left")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Print what validation found."""
        if not sys.stderr.isatty():
            self._print(trainer, "val", "validation")

    def _print(self, trainer: Any, stage: str, what: str) -> None:
        found = {name.partition("/"): float(value) for name, value in sorted(trainer.callback_metrics.items())}
        hidden = ("steps_per_second", "latent_mean", "latent_std")  # said otherwise, or one for each channel
        shown = [f"{n} {value:.4f}" for (of, _, n), value in found.items() if of == stage and not n.startswith(hidden)]
        trainer.print(f"step {trainer.global_step}/{trainer.max_steps}: {', '.join([what, *shown])}", flush=True)


def make_trainer(
    out: Path,
    *,
    steps: int,
    precision: str,
    validate_every: int,
    save_every: int = 200,
    spec: TrainerSpec | None = None,
    partial: bool = False,
    keep: int = 2,
    callbacks: Sequence[Callback] = (),
    wandb: bool = False,
) -> Any:
    """A trainer that writes to `out`: logs and `last.ckpt`, every `save_every` steps and on Ctrl-C or SIGTERM.

    Args:
        out: folder, made if missing.
        steps: optimiser steps in all.
        precision: as in `RunConfig`.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        spec: how the processes work together that `ldm.core.distributed.join` met.
        partial: whether there are steps in which some of the trained weights have no gradient.
        keep: how many checkpoints stay, the last among them.
        callbacks: more of them.
        wandb: whether Weights & Biases logs too.

    Raises:
        ValueError: the package wandb is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements on stderr
    warnings.filterwarnings(
        "ignore", "Using ModelCheckpoint with manual optimization"
    )  # the state after a step is meant
    warnings.filterwarnings("ignore", "The dirpath has changed")  # a folder of a run may have moved
    warnings.filterwarnings("ignore", ".*LeafSpec")  # Lightning's own use of an old name in torch
    warnings.filterwarnings("ignore", "It is recommended to use `self.log")  # every process validates on everything
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # what is frozen is meant to be
    checkpoint = ModelCheckpoint(
        out, save_last=True, save_top_k=0, every_n_train_steps=save_every, enable_version_counter=False
    )
    device = pick_device("auto")
    return lightning.Trainer(
        default_root_dir=out,
        accelerator=device.type,
        **_processes(spec or TrainerSpec(), partial, for_training(precision, device)),
        max_steps=steps,
        precision=for_training(precision, device),  # type: ignore[arg-type]
        logger=[TensorBoardLogger(out, name="", version="logs"), *([_wandb(out)] if wandb else [])],
        plugins=[WholeCheckpoints(keep), *([TorchElasticEnvironment()] if world().size > 1 else [])],
        callbacks=[checkpoint, StopAtBadNumbers(), StopWhenAsked(out / LAST), Progress(out), *callbacks],
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        enable_progress_bar=sys.stderr.isatty(),  # a log file gets the lines of `Progress` instead
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _processes(spec: TrainerSpec, partial: bool, precision: str) -> dict[str, Any]:
    """Lightning's names for the processes that were met."""
    here = world()
    if here.size == 1:
        return {"devices": 1}
    each = int(os.environ.get("LOCAL_WORLD_SIZE", here.size))
    shared = {"devices": each, "num_nodes": here.size // each}
    if spec.strategy == "fsdp":
        if precision == "16-mixed":
            raise ValueError("precision: '16-mixed' scales gradients, which fsdp does not; set it to bf16-mixed")
        return shared | {"strategy": FullySharded(spec.timeout)}
    return shared | {"strategy": DDPStrategy(timeout=timedelta(seconds=spec.timeout), find_unused_parameters=partial)}


def _wandb(out: Path) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    try:
        return WandbLogger(name=out.name, save_dir=out)
    except ModuleNotFoundError as error:
        raise ValueError("logger: 'wandb' needs the package wandb; pip install wandb, or leave the key out") from error


def train(trainer: Any, module: Any, loaders: tuple[Iterable[Any], DataLoader], out: Path) -> None:
    """Fit `module` to the trainer's last step, from the checkpoint in `out` where there is one, and leave one there.

    Args:
        trainer: from `make_trainer` with the same `out`.
        module: a Lightning module.
        loaders: of training, starting where the checkpoint ends (`steps_done`), and of validation.
        out: folder of the checkpoint.

    Raises:
        DivergenceError: a gradient or the loss is not finite.
        LostProcessError: another process of the run is gone.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written, unless it was pressed twice.
    """
    last = out / LAST
    try:
        with answering():
            trainer.fit(module, *loaders, ckpt_path=last if last.is_file() else None, weights_only=True)
    except StopRequested as asked:
        raise KeyboardInterrupt(*asked.args) from None
    except SystemExit:  # Lightning's answer to KeyboardInterrupt
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    trainer.save_checkpoint(last)
