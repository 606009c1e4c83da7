"""The benchmark of recipes trains what training trains and reports every variant."""

import runpy
import sys

import pytest
import stages
import torch

from ldm.config import RunConfig
from ldm.core.config_io import load


@pytest.fixture
def recipes():
    return runpy.run_path(str(stages.ROOT / "benchmarks" / "recipes.py"))


def settings(shapes, autoencoder, cache):
    options = stages.ldm_options(shapes, autoencoder, cache / "ldm")
    return options[options.index("--set") + 1 :: 2]


@pytest.mark.slow
def test_every_variant_gets_its_minutes_and_a_line(recipes, shapes, random_autoencoder, tmp_path, monkeypatch, capsys):
    common = [part for s in settings(shapes, random_autoencoder, tmp_path) for part in ("--set", s)]
    variants = ["--variant", "small", "data.batch=2", "--variant", "large", "data.batch=8", "optim.lr=1e-4"]
    options = ["--config", str(stages.ROOT / "configs/smoke/ldm.yaml"), *common, "--minutes", "0.01", *variants]
    monkeypatch.setattr(sys, "argv", ["recipes.py", *options])
    recipes["main"]()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith(("| small", "| large"))]
    for row, batch in zip(rows, (2, 8), strict=True):
        assert int(row[4]) == batch * int(row[3]) > 0
        assert 0 < float(row[5]) < 10


def test_a_trial_learns(recipes, shapes, random_autoencoder, tmp_path):
    changes = [*settings(shapes, random_autoencoder, tmp_path), "optim.lr=5e-3", "optim.ema=0.5"]
    trial = recipes["begin"]("one", load(stages.ROOT / "configs/smoke/ldm.yaml", RunConfig, changes), "adamw")
    before = recipes["held_out_loss"](trial.module, trial.held_out)
    assert torch.equal(before, recipes["held_out_loss"](trial.module, trial.held_out))
    for _ in range(200):
        recipes["step"](trial)
    after = recipes["held_out_loss"](trial.module, trial.held_out)
    noisy = before < before.median()  # at nearly clean levels so small a network takes longer
    assert after.shape == (8,) and after.mean() < before.mean() and after[noisy].mean() < 0.9 * before[noisy].mean()


@pytest.mark.parametrize("optimizer", ["adafactor", "muon", "nadam", "sgd"])
def test_other_optimisers_learn_too(recipes, shapes, random_autoencoder, tmp_path, optimizer):
    rate = {"adafactor": "0.1", "muon": "0.01", "nadam": "5e-3", "sgd": "0.2"}[optimizer]
    changes = [*settings(shapes, random_autoencoder, tmp_path), f"optim.lr={rate}", "optim.ema=0.5"]
    name, changes, chosen = recipes["with_optimizer"](("one", [f"optimizer={optimizer}", *changes]))
    trial = recipes["begin"](name, load(stages.ROOT / "configs/smoke/ldm.yaml", RunConfig, changes), chosen)
    before = recipes["held_out_loss"](trial.module, trial.held_out).mean()
    first = {name: p.detach().clone() for name, p in trial.module.learned.named_parameters()}
    for _ in range(25):
        recipes["step"](trial)
    assert recipes["held_out_loss"](trial.module, trial.held_out).mean() < before
    assert not any(torch.equal(p, first[name]) for name, p in trial.module.learned.named_parameters() if p.ndim > 1)


def test_an_unknown_optimiser_is_named(recipes):
    with pytest.raises(ValueError, match="optimizer=lion is unknown; known: adamw, nadam"):
        recipes["with_optimizer"](("one", ["optimizer=lion"]))


def test_what_a_guess_takes_to_train_counts(recipes, shapes, random_autoencoder, tmp_path):
    guess = "guess={shape: [4, 8, 8], width: 32, manner: 8, batch: 8, optim: {lr: 1e-3, steps: 20}}"
    changes = [*settings(shapes, random_autoencoder, tmp_path), guess, "net.cond_channels=4"]
    trial = recipes["begin"]("guessed", load(stages.ROOT / "configs/smoke/ldm.yaml", RunConfig, changes), "adamw")
    assert trial.seconds > 0 and not trial.module.guess.training
