"""Training compiled: the same weights, only the steps of training, and a line where there is no compiler."""

import importlib.util
import sys

import pytest
import stages
import torch
from torch import nn

from ldm.core import command
from ldm.core.compiled import CompiledSteps, cannot_compile
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

    monkeypatch.setattr(module, "cannot_compile", lambda device: "")
    in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net: in_place(net, backend=as_it_is, fullgraph=True))
    compiled, plain = weights("compiled", "compile=true"), weights("plain")
    assert graphs == [True, True]  # two steps; validations between them and pictures ran as they are
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor)


def test_without_a_compiler_training_says_so_and_goes_on(weights, monkeypatch, capsys):
    monkeypatch.setattr(module, "cannot_compile", lambda device: "a C++ compiler is not on this machine")
    assert weights("run", "compile=true")
    assert "compile: a C++ compiler is not on this machine; training goes on without" in capsys.readouterr().out


def test_what_is_lacking_is_said(monkeypatch, tmp_path):
    assert "does not compile for mps" in cannot_compile(torch.device("mps"))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert "that CXX names" in cannot_compile(torch.device("cpu"))
    monkeypatch.setenv("CXX", sys.executable)  # there, but no compiler

    def fail(function):
        raise RuntimeError("Python.h: no such file\nand a long log")

    monkeypatch.setattr(torch, "compile", fail)
    assert cannot_compile(torch.device("cpu")) == "this machine cannot (Python.h: no such file)"


def test_an_error_in_a_step_leaves_the_network_as_it_is(without_shape_checks):
    net = nn.Linear(2, 2)
    block = CompiledSteps(net)
    with pytest.raises(KeyError), block():
        raise KeyError
    assert net._compiled_call_impl is None
