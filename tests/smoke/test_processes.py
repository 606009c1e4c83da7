"""Two processes on one machine, as torchrun starts them: the same steps as one, and an end when one of them is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import stages
import torch
from test_guessed import GUESS

pytestmark = pytest.mark.slow
EXACT = ("precision=32-true",)


def start_two(script: str, *options: str) -> list[subprocess.Popen[str]]:
    """Two processes of one run, with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, f"scripts/{script}.py", *options],
            cwd=stages.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]


def run_two(script: str, *options: str) -> None:
    for process in start_two(script, *options):
        stages.finish(process)


def options_of(script: str, shapes: Path, autoencoder: Path, out: Path, *changes: str) -> list[str]:
    if script == "train_autoencoder":
        return stages.autoencoder_options(shapes, out, *EXACT, *changes)
    return stages.ldm_options(shapes, autoencoder, out, *EXACT, *changes)


def checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "last.ckpt", weights_only=True)


def first_gradient(out: Path) -> torch.Tensor:
    """After one step AdamW's first moment is the gradient times 1 - beta."""
    state = checkpoint(out)["optimizer_states"][0]
    moments = [state["state"][name]["exp_avg"] for name in sorted(state["state"])]
    return torch.cat([moment.flatten() for moment in moments]) / (1 - state["param_groups"][0]["betas"][0])


@pytest.mark.parametrize("script", ["train_autoencoder", "train_ldm"])
def test_two_processes_have_the_gradient_of_one(script, shapes, random_autoencoder, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # with more, sums are rounded otherwise
    changes = [
        "optim.steps=1",
        *(["data.crop=16", "data.whole=0", "loss.lpips=0"] if script == "train_autoencoder" else []),
    ]
    outs = [tmp_path / "one", tmp_path / "two"]
    one, two = (options_of(script, shapes, random_autoencoder, out, *changes) for out in outs)
    run_two(script, *two)
    stages.finish(stages.start(script, *one))
    ours, theirs = map(first_gradient, outs)
    assert theirs.norm() > 0 and (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_the_guess_of_two_processes_is_that_of_one(shapes, random_autoencoder, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("one", "two"):
        options = stages.ldm_options(
            shapes, random_autoencoder, tmp_path / name / "out", *EXACT, *GUESS, "optim.steps=1"
        )
        run_two("train_ldm", *options) if name == "two" else stages.finish(stages.start("train_ldm", *options))
    files = sorted(path.name for path in (tmp_path / "one/out").glob("guess*"))
    assert files == [*(f"guess-without-{k}.safetensors" for k in range(2)), "guess.safetensors"]
    assert all((tmp_path / "one/out" / f).read_bytes() == (tmp_path / "two/out" / f).read_bytes() for f in files)


@pytest.mark.parametrize("encode", ["ahead", "along"])
def test_a_run_goes_on_with_another_number_of_processes(encode, shapes, random_autoencoder, tmp_path):
    def options(out: Path, steps: int) -> list[str]:  # of another length would have other rates
        changes = (f"optim.steps={steps}", "optim.decay=0", "data.views=2", f"data.encode={encode}")
        return stages.ldm_options(shapes, random_autoencoder, out, *EXACT, *changes)

    whole, parts = tmp_path / "1/whole", tmp_path / "2/parts"  # each with a cache of its own
    stages.finish(stages.start("train_ldm", *options(parts, 4)))
    run_two("train_ldm", *options(parts, 8))
    stages.finish(stages.start("train_ldm", *options(whole, 8)))
    ours, theirs = checkpoint(parts), checkpoint(whole)
    assert ours["global_step"] == theirs["global_step"] == 8
    for name, weight in theirs["state_dict"].items():
        assert torch.allclose(ours["state_dict"][name], weight, atol=1e-5), name  # another order of pictures: 1e-2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_run_with_one_line(number, shapes, random_autoencoder, tmp_path):
    changes = ("optim.steps=100000", "save_every=4", "validate_every=100000", "trainer.timeout=10")
    first, second = start_two("train_ldm", *stages.ldm_options(shapes, random_autoencoder, tmp_path / "out", *changes))
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "last.ckpt").is_file():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    second.send_signal(number)
    try:
        _, err = first.communicate(timeout=60)
    finally:
        second.kill()
        second.communicate()
    lines = err.splitlines()
    assert first.returncode == 2 and "Traceback" not in err, err
    assert lines[-1].startswith("error: process 0 of 2: another process of the run was lost"), err
    assert checkpoint(tmp_path / "out")["global_step"] >= 4


def test_a_batch_that_cannot_be_shared_is_refused(shapes, random_autoencoder, tmp_path):
    options = stages.ldm_options(shapes, random_autoencoder, tmp_path / "out", "data.batch=5")
    for process in start_two("train_ldm", *options):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert "data.batch: 5 cannot be shared evenly by 2 processes" in err.splitlines()[-1]
