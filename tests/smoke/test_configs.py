"""Every recipe builds; the Stable-Diffusion-shaped ones have exactly its numbers of parameters."""

from pathlib import Path

import pytest
import torch

from autoencoder.config import AutoencoderConfig
from autoencoder.model import Autoencoder
from ldm.build import build_denoiser, build_grid, build_sampler
from ldm.config import RunConfig
from ldm.core.bundle import load_bundle
from ldm.core.config_io import ConfigError, from_dict, load, to_dict
from ldm.nets.classifier import NoisyClassifier
from ldm.training.classifier import ClassifierConfig
from ldm.training.distill import DistillConfig, student_config
from ldm.training.finetune import FinetuneConfig

ROOT = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.yaml"))
PARAMETERS = {"autoencoder/sd_f8.yaml": 83_653_863, "ldm/sd1.yaml": 859_520_964, "ldm/sd2_v.yaml": 865_910_724}
PARAMETERS |= {"ldm/sd1_finetune.yaml": PARAMETERS["ldm/sd1.yaml"]}


Recipe = AutoencoderConfig | ClassifierConfig | DistillConfig | FinetuneConfig | RunConfig
KINDS = {
    "autoencoder": AutoencoderConfig,
    "classifier": ClassifierConfig,
    "distill": DistillConfig,
    "finetune": FinetuneConfig,
}


def load_recipe(name: str) -> Recipe:
    path = Path(name)
    kind = KINDS.get(path.stem) or KINDS.get(path.parent.name) or RunConfig
    return load(ROOT / name, kind, ["token=<new>"] if kind is FinetuneConfig else [])  # a recipe leaves the word open


def network_of(config: Recipe) -> torch.nn.Module:
    with torch.device("meta"):
        if isinstance(config, ClassifierConfig):
            return NoisyClassifier(config.net)
        if isinstance(config, AutoencoderConfig):
            return Autoencoder(config.model)
        if isinstance(config, DistillConfig):
            return build_denoiser(student_config(model_of(config.teacher), config)).net
        return build_denoiser(model_of(config.model) if isinstance(config, FinetuneConfig) else config).net


def model_of(folder: str) -> RunConfig:
    """The configuration of the model that a recipe starts from; for one that is not shipped that of the smoke test."""
    path = ROOT.parent / folder / "ldm.safetensors"
    if not path.is_file():
        return load(ROOT / "smoke/ldm.yaml", RunConfig)
    return from_dict(RunConfig, load_bundle(path).config)


NAN = float("nan")
FINETUNE = {"token": "<new>"}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RunConfig, {"precision": "banana"}, "precision: 'banana'"),
        (RunConfig, {"validate_every": 0}, "validate_every: 0; give a number of at least 1"),
        (RunConfig, {"save_every": -1}, "save_every: -1"),
        (RunConfig, {"data": {"batch": 0}}, r"data\.batch: 0|data: batch: 0"),
        (RunConfig, {"data": {"views": 0}}, "views: 0; give a number of at least 1"),
        (RunConfig, {"data": {"limit": 0}}, "limit: 0"),
        (RunConfig, {"data": {"workers": -1}}, "workers: -1; give a number of at least 0"),
        (RunConfig, {"data": {"drop_caption": NAN}}, "drop_caption: nan"),
        (RunConfig, {"optim": {"lr": NAN}}, "lr: nan; give a number above 0"),
        (RunConfig, {"optim": {"clip": 0}}, "clip: 0"),
        (RunConfig, {"optim": {"ema": 1.0}}, "ema: 1.0"),
        (RunConfig, {"optim": {"warmup": -5}}, "warmup: -5"),
        (RunConfig, {"optim": {"betas": [0.9, 1]}}, "betas"),
        (RunConfig, {"codec": {"scale": 0}}, "scale: 0"),
        (RunConfig, {"sample": {"sampler": "nosuch"}}, "sampler: 'nosuch' is unknown"),
        (RunConfig, {"sample": {"steps": 0}}, "steps: 0"),
        (RunConfig, {"sample": {"scale": -1}}, "scale: -1"),
        (AutoencoderConfig, {"keep": 0}, "keep: 0"),
        (AutoencoderConfig, {"data": {"batch": 0}}, "batch: 0"),
        (AutoencoderConfig, {"data": {"whole": NAN}}, "whole: nan"),
        (FinetuneConfig, {**FINETUNE, "validate_every": 0}, "validate_every: 0"),
        (FinetuneConfig, {**FINETUNE, "data": {"views": 0}}, "views: 0"),
        (DistillConfig, {"save_every": 0}, "save_every: 0"),
        (ClassifierConfig, {"net": {"classes": 2}, "data": {"column": "c", "batch": 0}}, "batch: 0"),
    ],
)
def test_what_no_run_can_keep_to_is_refused(kind, values, message):
    with pytest.raises(ConfigError, match=message) as refused:
        from_dict(kind, values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds(name):
    config = load_recipe(name)
    assert from_dict(type(config), to_dict(config)) == config
    count = sum(p.numel() for p in network_of(config).parameters())
    assert count == PARAMETERS.get(name, count) > 0
    if isinstance(config, RunConfig):
        build_sampler(config.sample)
        assert len(build_grid(config.sample, config.schedule)) == config.sample.steps


def test_the_recipes_with_known_counts_are_there():
    assert set(PARAMETERS) <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_unknown_key_is_refused_everywhere(name):
    config = load_recipe(name)
    tree = to_dict(config)
    sections = [key for key, value in tree.items() if isinstance(value, dict)]
    assert sections
    for section in sections:
        with pytest.raises(ConfigError, match=rf"config\.{section}\.colour: unknown key"):
            from_dict(type(config), tree | {section: tree[section] | {"colour": 1}})
    with pytest.raises(ConfigError, match=r"config\.colour: unknown key"):
        from_dict(type(config), tree | {"colour": 1})
