"""A run that is killed, interrupted or diverges goes on from its checkpoint, to the same weights bit for bit."""

import json
import signal
import time
from pathlib import Path

import pytest
import stages
import torch

from ldm.core.bundle import load_bundle

EXACT = ("precision=32-true", "optim.steps=8", "save_every=3", "validate_every=4")


def wait_for(path: Path, process) -> None:
    deadline = time.monotonic() + 120
    while not path.is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_bundle(path).weights


def assert_same(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, different


@pytest.fixture(scope="module")
def autoencoder(shapes, tmp_path_factory) -> Path:
    """An uninterrupted run of stage 1."""
    out = tmp_path_factory.mktemp("whole") / "autoencoder"
    stages.finish(stages.start("train_autoencoder", *stages.autoencoder_options(shapes, out, *EXACT)))
    return out / "autoencoder.safetensors"


def stopped_then_resumed(script: str, options: list[str], out: Path, number: signal.Signals) -> tuple[int, str]:
    """Stop a run by a signal once it has a checkpoint, check that it was not at its end, and finish it."""
    long = [*options, "--set", "optim.steps=100000", "--set", "optim.decay=0"]
    process = stages.start(script, *long)
    wait_for(out / "last.ckpt", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert 0 < steps_in(out) < 8, err
    stages.finish(stages.start(script, *options, "--set", "optim.decay=0"))
    assert steps_in(out) == 8
    return process.returncode, err


def steps_in(out: Path) -> int:
    return torch.load(out / "last.ckpt", weights_only=True, mmap=True)["global_step"]
