"""A run that was interrupted and then killed ends with the same bits as one that was left alone."""

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import stages
import torch

import autoencoder.fit
import ldm.training.fit
from autoencoder.config import AutoencoderConfig
from ldm.config import RunConfig
from ldm.core.config_io import load

pytestmark = pytest.mark.slow
EXACT = ("precision=32-true", "optim.steps=30", "save_every=4", "validate_every=10")


def wait_for_change(path: Path, process) -> None:
    """Until `path` is written anew."""
    before, deadline = stamp(path), time.monotonic() + 120
    while stamp(path) == before:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "last.ckpt", weights_only=True)


def signalled(script: str, options: list[str], out: Path, number: signal.Signals) -> tuple[int, str]:
    """Start a run and send it a signal after its next checkpoint; exit code and standard error."""
    process = stages.start(script, *options)
    wait_for_change(out / "last.ckpt", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


@pytest.mark.parametrize(("script", "asked"), [("train_autoencoder", signal.SIGINT), ("train_ldm", signal.SIGTERM)])
def test_interrupted_and_killed_run_ends_as_the_uninterrupted_one(script, asked, shapes, random_autoencoder, tmp_path):
    def options(out: Path) -> list[str]:
        if script == "train_autoencoder":
            return stages.autoencoder_options(shapes, out, *EXACT, "loss.adversarial=0.5", "loss.adversarial_start=7")
        return stages.ldm_options(shapes, random_autoencoder, out, *EXACT)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted = stages.start(script, *options(whole))
    code, err = signalled(script, options(parts), parts, asked)
    after_interrupt = checkpoint(parts)["global_step"]
    saved = f"stopped after step {after_interrupt}, which is saved; the same command goes on from there"
    assert (code, err.splitlines()[-1]) == (130, saved), err
    code, err = signalled(script, options(parts), parts, signal.SIGKILL)
    assert code == -signal.SIGKILL, err
    assert 4 <= after_interrupt < checkpoint(parts)["global_step"] < 30
    stages.finish(stages.start(script, *options(parts)))
    stages.finish(uninterrupted)

    ours, theirs = checkpoint(parts), checkpoint(whole)
    for part in ("global_step", "state_dict", "ema", "optimizer_states", "lr_schedulers"):
        assert_same(ours[part], theirs[part], part)


@pytest.mark.parametrize("script", ["train_autoencoder", "train_ldm"])
def test_a_folder_holds_one_run_wherever_its_data_lie(script, shapes, random_autoencoder, tmp_path):
    def trained(data: Path, steps: int, *changes: str):
        quick = ("precision=32-true", f"optim.steps={steps}", "validate_every=2", *changes)
        if script == "train_autoencoder":
            given = stages.autoencoder_options(data, tmp_path / "out", "loss.lpips=0", *quick)
            fit, kind, recipe = autoencoder.fit.fit, AutoencoderConfig, "configs/smoke/autoencoder.yaml"
        else:
            given = stages.ldm_options(data, random_autoencoder, tmp_path / "out", *quick)
            fit, kind, recipe = ldm.training.fit.fit, RunConfig, "configs/smoke/ldm.yaml"
        fit(load(stages.ROOT / recipe, kind, given[given.index("--set") + 1 :: 2]), tmp_path / "out")

    trained(shapes, 2)
    before = (tmp_path / "out/config.yaml").read_text()
    for change, words in (("data.batch=8", "data.batch 4, and now it is 8"), ("seed=1", "seed 0, and now it is 1")):
        with pytest.raises(ValueError, match=f"holds a run with {words}"):
            trained(shapes, 4, change)
    assert (tmp_path / "out/config.yaml").read_text() == before
    moved = shutil.copytree(shapes, tmp_path / "moved")
    trained(moved, 3)
    assert checkpoint(tmp_path / "out")["global_step"] == 3
    shutil.copy(moved / "train/01.png", moved / "train/00.png")
    with pytest.raises(ValueError, match="holds a run with another data;"):
        trained(moved, 4)
