"""Training that leaves the finite numbers stops with one line that names a tensor, and its checkpoint stays good."""

import importlib.util
import sys
from pathlib import Path

import pytest
import stages
import torch

from ldm.core import command

SHORT = ("precision=32-true", "optim.warmup=0", "optim.decay=0", "validate_every=100", "save_every=100")


@pytest.fixture(params=["train_autoencoder", "train_ldm"])
def train(request, shapes, random_autoencoder, tmp_path, monkeypatch, capsys):
    """Run a script in this process with changed settings; exit code and the lines on standard error."""
    spec = importlib.util.spec_from_file_location(request.param, stages.ROOT / f"scripts/{request.param}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def call(out: Path, *changes: str) -> tuple[int, list[str]]:
        if request.param == "train_autoencoder":
            options = stages.autoencoder_options(shapes, out, *SHORT, *changes)
        else:
            options = stages.ldm_options(shapes, random_autoencoder, out, *SHORT, *changes)
        monkeypatch.setattr(sys, "argv", [request.param, *options])
        monkeypatch.chdir(stages.ROOT)
        code = 0
        try:
            command.run(script.main)
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err.splitlines()

    return call


@pytest.mark.slow
def test_divergence_stops_and_a_lower_rate_goes_on(train, tmp_path):
    out = tmp_path / "run"
    assert train(out, "optim.steps=2")[0] == 0
    good = (out / "last.ckpt").read_bytes()

    code, lines = train(out, "optim.steps=8", "optim.lr=1e30")
    assert code == 2
    assert lines[-1].startswith("error: step ") and "first tensor that is not finite: " in lines[-1]
    named = lines[-1].split("not finite: ")[1].split(";")[0].removeprefix("gradient of ")
    state = torch.load(out / "last.ckpt", weights_only=True)
    assert named in state["state_dict"]
    assert (out / "last.ckpt").read_bytes() == good

    assert train(out, "optim.steps=8", "optim.lr=1e-4")[0] == 0
    state = torch.load(out / "last.ckpt", weights_only=True)
    assert state["global_step"] == 8
    assert all(torch.isfinite(w).all() for w in state["state_dict"].values())
    assert [group["initial_lr"] for group in state["optimizer_states"][0]["param_groups"]] == [1e-4, 1e-4]


def test_damaged_checkpoint_is_named(train, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK not a checkpoint")
    code, lines = train(tmp_path, "optim.steps=2")
    assert code == 2
    assert lines[-1].startswith(f"error: {tmp_path / 'last.ckpt'}: the checkpoint cannot be read")
