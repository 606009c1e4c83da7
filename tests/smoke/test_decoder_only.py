"""A decoder that is trained further leaves the latents, and so every stage 2 trained on them, as they were."""

import shutil
from pathlib import Path

import pytest
import stages
import torch

from autoencoder.build import load_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.fit import fit
from ldm.model_folder import AUTOENCODER, load_model


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

    refined = tmp_path / "model"
    shutil.copytree(model_folder, refined)
    shutil.copy(path, refined / AUTOENCODER)
    load_model(refined)


def test_a_decoder_needs_an_encoder_to_keep(tmp_path):
    with pytest.raises(ValueError, match="learn: 'decoder' keeps the encoder of a trained bundle; name it with --init"):
        fit(AutoencoderConfig(learn="decoder"), tmp_path)
