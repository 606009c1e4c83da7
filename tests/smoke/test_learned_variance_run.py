"""A U-Net that also says the reverse variance: configured, trained, stored, drawn with."""

import pytest
import stages
import torch

from ldm.config import RunConfig
from ldm.core.config_io import load
from ldm.core.rng import NoiseStream
from ldm.denoiser import bind
from ldm.inference.pipeline import Request, txt2img
from ldm.model_folder import load_model
from ldm.training.fit import fit

SMOKE = stages.ROOT / "configs/smoke/ldm.yaml"


def config(shapes, autoencoder, out, *changes):
    options = stages.ldm_options(shapes, autoencoder, out, "optim.steps=3", "precision=32-true", *changes)
    return load(SMOKE, RunConfig, options[options.index("--set") + 1 :: 2])


def test_it_is_trained_and_drawn_with(shapes, random_autoencoder, tmp_path):
    learned = ("prediction.learned_variance=true", "net.out_channels=8")
    model = load_model(fit(config(shapes, random_autoencoder, tmp_path / "ldm", *learned), tmp_path / "ldm"))
    x = NoiseStream([0]).normal((1, 4, 8, 8), like=torch.empty(0))
    with torch.no_grad():
        said = bind(model.denoise, model.condition([""]))(x, torch.zeros(1))
    assert said.var_fraction is not None and said.var_fraction.shape == said.x0.shape
    assert (said.var_fraction != 0.5).any()  # what it starts with

    def draw(variance: str) -> torch.Tensor:
        options = {"variance": variance}
        request = Request(prompts=("a red circle",), seeds=(0,), steps=3, sampler="ancestral", options=options)
        return txt2img(model, request, dtype=torch.float32)

    assert not torch.equal(draw("learned"), draw("posterior"))


def test_times_and_schedules_that_its_bound_cannot_use_are_refused():
    learned = ["prediction.learned_variance=true", "net.out_channels=8"]
    for change in ("times={kind: log_normal}", "schedule={kind: zero_terminal}"):
        with pytest.raises(ValueError, match="learned_variance: its bound needs times drawn evenly"):
            load(SMOKE, RunConfig, [*learned, change])


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="net.out_channels: 4, but 4 channels and their variances need 8"):
        load(SMOKE, RunConfig, ["prediction.learned_variance=true"])
    with pytest.raises(ValueError, match="net.out_channels: 8, but 4 channels without a learned variance need 4"):
        load(SMOKE, RunConfig, ["net.out_channels=8"])
