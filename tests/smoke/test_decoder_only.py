"""A decoder that is trained further leaves the latents, and so every stage 2 trained on them, as they were."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import stages
import torch
from PIL import Image

from autoencoder.build import load_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.fit import fit
from ldm.model_folder import AUTOENCODER, load_model
from ldm.training.finetune_autoencoder import finetune_autoencoder


@pytest.mark.slow
def test_only_the_decoder_changes_and_stage_2_still_fits(shapes, random_autoencoder, model_folder, tmp_path):
    options = stages.autoencoder_options(shapes, tmp_path / "run", "learn=decoder", "optim.steps=4")
    printed = stages.finish(stages.start("train_autoencoder", "--init", random_autoencoder, *options))
    before, moments, latents = load_autoencoder(random_autoencoder)
    path = Path(printed.splitlines()[-1])
    after, moments_after, latents_after = load_autoencoder(path)
    assert (moments_after, latents_after) == (moments, latents)
    changed = {
        name.split(".")[0] for name, w in after.state_dict().items() if not torch.equal(w, before.state_dict()[name])
    }
    assert changed == {"decoder"}

    rows = sorted(each.name for each in (tmp_path / "run" / "reconstructions").iterdir())
    assert rows == ["00000000.png", "00000004.png", "original.png"]
    first, last, original = (np.asarray(Image.open(tmp_path / "run" / "reconstructions" / row)) for row in rows)
    sheet = np.asarray(Image.open(tmp_path / "run" / "reconstructions.png"))
    assert np.array_equal(sheet[8:, 72:], np.concatenate([original, first, last])) and (first != last).any()

    refined = tmp_path / "model"
    shutil.copytree(model_folder, refined)
    shutil.copy(path, refined / AUTOENCODER)
    load_model(refined)


def test_a_decoder_needs_an_encoder_to_keep(tmp_path):
    with pytest.raises(ValueError, match="learn: 'decoder' keeps the encoder of a trained bundle; name it with --init"):
        fit(AutoencoderConfig(learn="decoder"), tmp_path)


@pytest.mark.slow
def test_a_folder_holds_one_run(shapes, model_folder, tmp_path):
    def tuned(data, *changes):
        fixed = ("loss.lpips=0", "data.crop=null", "data.batch=4", "optim.steps=1", "validate_every=1")
        recipe = stages.ROOT / "configs/finetune/autoencoder.yaml"
        return finetune_autoencoder(model_folder, str(data), recipe, [*fixed, *changes], tmp_path / "run")

    assert load_model(tuned(shapes / "train"))
    elsewhere = shutil.copytree(shapes / "train", tmp_path / "moved")
    assert load_model(tuned(elsewhere, "optim.steps=2"))
    with pytest.raises(ValueError, match="holds a run with loss.kl 0.0, and now it is 0.5;"):
        tuned(elsewhere, "loss.kl=0.5")
    shutil.copy(elsewhere / "01.png", elsewhere / "00.png")
    with pytest.raises(ValueError, match="holds a run with another data;"):
        tuned(elsewhere)
