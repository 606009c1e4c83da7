"""Runs that kill themselves: each in a process of its own, forked from one that has imported everything already."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoencoder.config import AutoencoderConfig
from ldm.config import RunConfig
from ldm.core.config_io import load

ROOT = Path(__file__).parents[2]
STEPS = 12
FIXED = (f"optim.steps={STEPS}", "precision=32-true", "save_every=4", "validate_every=6")
IMPORTED = [
    "lpips",
    "torchvision",
    "peft",
    "autoencoder.fit",
    "ldm.training.fit",
    "ldm.training.finetune_fit",
    "killing",
]


def stage_one(out: Path, given: dict[str, str]) -> None:
    from autoencoder.fit import fit

    settings = (f"data.train={given['shapes']}/train", f"data.val=[{given['shapes']}/val]", *FIXED)
    fit(load(ROOT / "configs/smoke/autoencoder.yaml", AutoencoderConfig, settings), out)


def stage_two(out: Path, given: dict[str, str]) -> None:
    from ldm.training.fit import fit

    settings = (f"data.train={given['shapes']}/train", f"data.val={given['shapes']}/val", *FIXED)
    settings += (f"data.cache={given['cache']}", f"codec.path={given['autoencoder']}")
    fit(load(ROOT / "configs/smoke/ldm.yaml", RunConfig, settings), out)


def stage_two_along(out: Path, given: dict[str, str]) -> None:
    """Its own cache, in shards so small that the first epoch, all of the 12 steps, goes through six of them."""
    from ldm.data import along, parts
    from ldm.training.fit import fit

    parts.ROWS = along.ROWS = 8
    settings = (f"data.train={given['shapes']}/train", f"data.val={given['shapes']}/val", *FIXED)
    settings += (f"data.cache={out}/cache", f"codec.path={given['autoencoder']}", "data.encode=along")
    fit(load(ROOT / "configs/smoke/ldm.yaml", RunConfig, settings), out)


def lora(out: Path, given: dict[str, str]) -> None:
    from ldm.training.finetune import FinetuneConfig
    from ldm.training.finetune_fit import finetune

    settings = (
        f"data.train={given['shapes']}/train",
        f"model={given['model']}",
        f"data.cache={given['cache']}",
        *FIXED,
    )
    finetune(load(ROOT / "configs/smoke/finetune.yaml", FinetuneConfig, settings), out)


STAGES: dict[str, Callable[[Path, dict[str, str]], None]] = {
    "stage 1": stage_one,
    "stage 2": stage_two,
    "stage 2, encoded along": stage_two_along,
    "LoRA": lora,
}


def train(stage: str, out: Path, given: dict[str, str], kill_at: int | None) -> None:
    """Run a stage to its end, or until it has the gradients of step `kill_at`."""
    import torch

    from ldm.core.divergence import StopAtBadNumbers

    torch.set_num_threads(1)
    os.chdir(ROOT)

    def kill(self: Any, trainer: Any, module: Any) -> None:
        if trainer.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    StopAtBadNumbers.on_after_backward = kill  # type: ignore[method-assign]
    STAGES[stage](out, given)


def run(stage: str, out: Path, given: dict[str, str], kill_at: int | None = None) -> int:
    """Exit code of `train` in another process: below 0 the signal that ended it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=train, args=(stage, out, given, kill_at))
    process.start()
    process.join(timeout=170)
    assert process.exitcode is not None, "still running"
    return process.exitcode
