"""A U-Net that reads a guess of the latent: trained, resumed with the same guess, loaded, drawn at other sizes."""

import pytest
import stages
import torch
from PIL import Image

from ldm.core.bundle import load_bundle
from ldm.model_folder import load_model

GUESS = (
    "guess={shape: [4, 8, 8], width: 32, batch: 8, folds: 2, unseen: 0.5, optim: {lr: 1e-3, steps: 20}}",
    "net.cond_channels=4",
    "data.latents=mean",
    "storage=int8",
)


@pytest.mark.slow
def test_a_guess_is_trained_first_kept_and_used(shapes, random_autoencoder, tmp_path):
    def train(steps: int) -> str:
        changes = (*GUESS, f"optim.steps={steps}", "validate_every=2")
        options = stages.ldm_options(shapes, random_autoencoder, tmp_path / "ldm", *changes)
        return stages.finish(stages.start("train_ldm", *options)).splitlines()[-1]

    folder = train(2)
    first = load_bundle(f"{folder}/ldm.safetensors").weights
    assert train(4) == folder
    second = load_bundle(f"{folder}/ldm.safetensors").weights
    names = [name for name in first if name.startswith("guess.")]
    assert names and all(torch.equal(first[name], second[name]) for name in names)
    assert len(list((tmp_path / "ldm").glob("guess-without-*"))) == 2
    assert first["guess.out.weight"].dtype == torch.int8

    model = load_model(folder)
    cond = model.condition(["a red circle"])
    assert cond.channels is not None and torch.equal(cond.channels, model.guess(model.read(["a red circle"]).phrases))
    drawn = ["--model", folder, "--out", tmp_path / "drawn", "--prompt", "a red circle", "--width", "64"]
    with Image.open(stages.finish(stages.start("txt2img", *drawn)).strip()) as picture:
        assert picture.size == (64, 32)


@pytest.mark.slow
def test_a_guess_and_latents_that_come_along_are_refused_together(shapes, random_autoencoder, tmp_path):
    options = stages.ldm_options(shapes, random_autoencoder, tmp_path / "ldm", *GUESS, "data.encode=along")
    process = stages.start("train_ldm", *options)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("error: data.encode: 'along', but the guess is trained on all latents")
