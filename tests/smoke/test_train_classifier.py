"""The classifier of noisy latents trains on a folder of pictures with the command that a user types."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import stages
import torch

from ldm.core.bundle import BundleError, load_bundle
from ldm.core.config_io import load, to_dict
from ldm.model_folder import LDM
from ldm.nets.classifier import load_classifier
from ldm.process.schedule import Cosine
from ldm.training.classifier import ClassifierConfig, ClassifierTraining, fit

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.name for path in (ROOT / "configs/classifier").glob("*.yaml"))
CLASSES = tuple(f"a {colour} {shape}" for colour in ("black", "blue", "green", "red") for shape in ("circle", "square"))


def settings(shapes, model_folder, cache, **changes):
    values = {
        "model": model_folder,
        "net.classes": 8,
        "net.in_channels": 4,
        "net.channels": 16,
        "net.norm_groups": 8,
        "data.column": "text",
        "data.train": f"{shapes}/train",
        "data.val": f"{shapes}/val",
        "data.batch": 4,
        "data.views": 2,
        "data.cache": cache,
        "optim.steps": 2,
        "optim.warmup": 1,
        "optim.lr": 1e-2,
        "validate_every": 2,
        "save_every": 1,
    }
    return [f"{key}={value}" for key, value in (values | changes).items()]


@pytest.mark.slow
def test_two_steps_write_a_bundle_that_explains_itself(shapes, model_folder, tmp_path):
    options = [part for item in settings(shapes, model_folder, tmp_path / "cache") for part in ("--set", item)]
    printed = stages.finish(stages.start("train_classifier", "--out", tmp_path / "out", *options))
    path = Path(printed.splitlines()[-1])
    found = load_classifier(path)
    assert found.classes == CLASSES
    assert found.autoencoder == load_bundle(model_folder / LDM).meta["autoencoder"]
    assert found.schedule == to_dict(Cosine())
    logits = found.net(torch.randn(2, 4, 8, 8), torch.tensor([0.0, 3.0]))
    assert logits.shape == (2, 8) and logits.abs().max() > 0  # the last layer starts at zero: it has learnt


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_a_classifier_s(name):
    config = load(ROOT / "configs/classifier" / name, ClassifierConfig)
    assert config.data.column == name.removesuffix(".yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.column": "colour"}, "data.column: 'colour' is missing for .*00.png; known: file_name, text, caption"),
        ({"net.classes": 3}, "net.classes: 3, but 'text' has 8 values .*; set it to 8"),
        ({"net.in_channels": 3}, "net.in_channels: 3, but latents have 4"),
        ({"net.mult": [1, 1, 1, 1, 1]}, "net.mult: 5 levels halve 8x8 latents too often"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(change, message, shapes, model_folder, tmp_path):
    overrides = settings(shapes, model_folder, tmp_path / "cache", **change)
    with pytest.raises(ValueError, match=message):
        fit(load(ROOT / "configs/classifier/style.yaml", ClassifierConfig, overrides), tmp_path / "out")


def test_gradients_are_shortened_to_the_configured_norm(shapes, model_folder, tmp_path):
    overrides = settings(shapes, model_folder, tmp_path, **{"optim.clip": 0.01})
    module = ClassifierTraining(load(ROOT / "configs/classifier/style.yaml", ClassifierConfig, overrides), Cosine())
    module._trainer = SimpleNamespace(precision_plugin=None)
    module.net(torch.randn(2, 4, 8, 8), torch.zeros(2)).sum().backward()
    module.configure_gradient_clipping(module.configure_optimizers()["optimizer"])
    gradients = [p.grad for p in module.net.parameters() if p.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-3)


def test_another_bundle_is_no_classifier(random_autoencoder):
    with pytest.raises(BundleError, match="not a classifier of this version"):
        load_classifier(random_autoencoder)
