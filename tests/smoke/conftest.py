"""Coloured shapes with captions, small enough to train on in a test."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from shapes_on_disk import make_shapes

from autoencoder.build import save_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.model import Autoencoder
from autoencoder.stats import LatentMoments
from ldm.build import build_denoiser
from ldm.config import RunConfig
from ldm.core import command
from ldm.core.config_io import load
from ldm.model_folder import save_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root / "train", 24, seed=0)
    make_shapes(root / "val", 8, seed=1)
    return root


@pytest.fixture(scope="session")
def random_autoencoder(tmp_path_factory) -> Path:
    """The bundle of an untrained autoencoder of the smoke recipe."""
    config = load(ROOT / "configs/smoke/autoencoder.yaml", AutoencoderConfig)
    torch.manual_seed(0)
    moments = LatentMoments(mean=(0.0,) * 4, std=(1.0,) * 4, images=1)
    path = tmp_path_factory.mktemp("stage1") / "autoencoder.safetensors"
    save_autoencoder(path, config, Autoencoder(config.model), moments)
    return path


@pytest.fixture(scope="session")
def model_folder(random_autoencoder, tmp_path_factory) -> Path:
    """A model folder with the smoke recipe's network, untrained but for noise in the layers that start at zero."""
    config = load(ROOT / "configs/smoke/ldm.yaml", RunConfig)
    torch.manual_seed(1)
    weights = build_denoiser(config).net.state_dict()
    noisy = {name: w + 0.05 * torch.randn(w.shape) for name, w in weights.items()}
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, config, noisy, random_autoencoder)
    return folder


@pytest.fixture(scope="session")
def script():
    spec = importlib.util.spec_from_file_location("txt2img_script", ROOT / "scripts/txt2img.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def txt2img(script, model_folder, tmp_path, monkeypatch, capsys):
    """Run the script in this process; returns exit code, lines of stderr, and the pictures."""

    def call(*options: str | Path, model: Path = model_folder, out: Path = tmp_path / "drawn"):
        fixed = ["--model", model, "--out", out, "--device", "cpu", "--dtype", "float32", "--steps", "2"]
        asked = [] if {"--prompt", "--from-picture"} & set(options) else ["--prompt", "a red apple"]
        monkeypatch.setattr(sys, "argv", ["txt2img.py", *map(str, [*fixed, *asked, *options])])
        code = 0
        try:
            command.run(script.main)
        except SystemExit as stop:
            code = stop.code
        files = sorted(out.iterdir()) if out.is_dir() else []
        return code, capsys.readouterr().err.splitlines(), files

    return call
