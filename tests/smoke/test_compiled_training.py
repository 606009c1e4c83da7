"""Training compiled: the same weights, only the steps of training, and a line where there is no compiler."""

import importlib.util
import sys

import pytest
import stages
import torch
from torch import nn

from ldm.core import command
from ldm.training import module

SHORT = ("precision=32-true", "optim.steps=2", "optim.warmup=0", "optim.decay=0", "validate_every=1", "save_every=2")


@pytest.fixture
def weights(shapes, random_autoencoder, tmp_path, monkeypatch):
    """Train stage 2 for two steps in this process; its last checkpoint's weights."""
    spec = importlib.util.spec_from_file_location("train_ldm", stages.ROOT / "scripts/train_ldm.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(stages.ROOT)

    def train(name, *changes):
        options = stages.ldm_options(shapes, random_autoencoder, tmp_path / name, *SHORT, *changes)
        monkeypatch.setattr(sys, "argv", ["train_ldm", *options])
        command.run(script.main)
        return torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]

    return train


@pytest.mark.slow
def test_the_steps_of_training_are_compiled_and_nothing_else(weights, monkeypatch, without_shape_checks):
    graphs = []

    def as_it_is(graph, inputs):
        def run(*args):
            graphs.append(torch.is_grad_enabled())
            return graph.forward(*args)

        return run

    monkeypatch.setattr(module, "missing_compiler", lambda device: "")
    in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net: in_place(net, backend=as_it_is, fullgraph=True))
    compiled, plain = weights("compiled", "compile=true"), weights("plain")
    assert graphs == [True, True]  # two steps; validations between them and pictures ran as they are
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor)


def test_without_a_compiler_training_says_so_and_goes_on(weights, monkeypatch, capsys):
    monkeypatch.setattr(module, "missing_compiler", lambda device: "a C++ compiler")
    assert weights("run", "compile=true")
    assert "compile: a C++ compiler is not on this machine; training goes on without" in capsys.readouterr().err
