"""Weights that two processes share out: the steps of one, and checkpoints that any number of them goes on from."""

import pytest
import stages
import torch
from safetensors.torch import load_file
from test_processes import EXACT, checkpoint, run_two, start_two

pytestmark = pytest.mark.slow
FSDP = ("trainer.strategy=fsdp",)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """In all processes: with more, sums are rounded otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def options(shapes, autoencoder, out, steps, *changes) -> list[str]:
    fixed = (f"optim.steps={steps}", "optim.decay=0", "optim.clip=0.1", "validate_every=2", *EXACT, *changes)
    return stages.ldm_options(shapes, autoencoder, out, *fixed)


def parts_of(saved) -> dict[str, torch.Tensor]:
    """Weights, average and moments of a checkpoint, each as one vector."""
    state = saved["optimizer_states"][0]["state"]
    moments = {name: [state[number][name] for number in sorted(state)] for name in ("exp_avg", "exp_avg_sq")}
    named = {"weights": saved["state_dict"], "average": saved["ema"]["average"]}
    lists = {name: [tensors[key] for key in sorted(tensors)] for name, tensors in named.items()} | moments
    return {name: torch.cat([tensor.flatten() for tensor in tensors]) for name, tensors in lists.items()}


def test_three_steps_are_those_of_one_process(shapes, random_autoencoder, tmp_path):
    run_two("train_ldm", *options(shapes, random_autoencoder, tmp_path / "two", 3, *FSDP))
    stages.finish(stages.start("train_ldm", *options(shapes, random_autoencoder, tmp_path / "one", 3)))
    ours, theirs = (parts_of(checkpoint(tmp_path / name)) for name in ("two", "one"))
    for name, vector in theirs.items():
        assert (ours[name] - vector).norm() <= 1e-6 * vector.norm(), name
    ours, theirs = (load_file(tmp_path / name / "model/ldm.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name].float(), theirs[name].float(), rtol=0.01, atol=1e-5) for name in theirs)


def test_a_run_goes_on_with_another_strategy_and_number_of_processes(shapes, random_autoencoder, tmp_path):
    out = tmp_path / "parts"
    stages.finish(stages.start("train_ldm", *options(shapes, random_autoencoder, out, 2)))
    run_two("train_ldm", *options(shapes, random_autoencoder, out, 4, *FSDP))
    run_two("train_ldm", *options(shapes, random_autoencoder, out, 5))
    run_two("train_ldm", *options(shapes, random_autoencoder, out, 6, *FSDP))
    stages.finish(stages.start("train_ldm", *options(shapes, random_autoencoder, out, 7)))
    stages.finish(stages.start("train_ldm", *options(shapes, random_autoencoder, tmp_path / "whole", 7)))
    ours, theirs = checkpoint(out), checkpoint(tmp_path / "whole")
    assert ours["global_step"] == theirs["global_step"] == 7
    for name, weight in theirs["state_dict"].items():
        assert torch.allclose(ours["state_dict"][name], weight, atol=1e-5), name


def test_numbers_that_are_not_finite_end_both_processes_with_one_line(shapes, random_autoencoder, tmp_path):
    changes = ("optim.lr=1e30", "optim.warmup=0", "optim.clip=1e30", *FSDP)
    given = stages.ldm_options(shapes, random_autoencoder, tmp_path / "out", *EXACT, *changes)
    for process in start_two("train_ldm", *given):
        _, err = process.communicate(timeout=170)
        assert process.returncode == 2 and "training produced NaN or infinity" in err.splitlines()[-1], err


def test_what_cannot_be_shared_out_is_refused(shapes, random_autoencoder, tmp_path):
    given = stages.autoencoder_options(shapes, tmp_path / "out", *FSDP)
    _, err = stages.start("train_autoencoder", *given).communicate(timeout=170)
    assert err.splitlines()[-1].startswith("error: trainer.strategy: 'fsdp' is for stage 2")
