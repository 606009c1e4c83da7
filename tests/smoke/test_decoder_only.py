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
from ldm.model_folder import AUTOENCODER, VOCABULARY, load_model, save_sibling
from ldm.samplers.tuned import TUNED
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
    enlarged = np.concatenate([original, first, last]).repeat(3, 0).repeat(3, 1)
    assert np.array_equal(sheet[8:, 72:], enlarged) and (first != last).any()

    refined = tmp_path / "model"
    shutil.copytree(model_folder, refined)
    shutil.copy(path, refined / AUTOENCODER)
    load_model(refined)


def test_a_decoder_needs_an_encoder_to_keep(tmp_path):
    with pytest.raises(ValueError, match="learn: 'decoder' keeps the encoder of a trained bundle; name it with --init"):
        fit(AutoencoderConfig(learn="decoder"), tmp_path)


@pytest.mark.parametrize("precision", ["16-mixed"])
def test_scaled_gradients_are_refused(tmp_path, precision):
    with pytest.raises(ValueError, match=f"^precision: '{precision}' scales gradients; set it to bf16-mixed"):
        fit(AutoencoderConfig(precision=precision), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_folder_of_a_new_decoder_is_whole(shapes, model_folder, tmp_path):
    """Also where the model reads the autoencoder of another folder."""
    own, sibling = Path(shutil.copytree(model_folder, tmp_path / "own")), tmp_path / "sibling"
    model = load_model(own)
    save_sibling(sibling, model.config, dict(model.stored().state_dict()), own)
    before = {folder: load_model(folder) for folder in (own, sibling)}
    for folder in before:
        for name in (VOCABULARY, TUNED):
            (folder / name).write_bytes(b"of " + folder.name.encode())
    for folder, old in before.items():
        out = tmp_path / f"tuned-{folder.name}"
        fixed = ("loss.lpips=0", "data.crop=null", "data.batch=4", "optim.steps=1", "validate_every=1")
        recipe = stages.ROOT / "configs/finetune/autoencoder.yaml"
        written = finetune_autoencoder(folder, str(shapes / "train"), recipe, fixed, out)
        alone = Path(shutil.move(written, tmp_path / f"alone-{folder.name}"))
        new = load_model(alone)
        assert new.latents == old.latents and (alone / VOCABULARY).read_bytes() == b"of " + folder.name.encode()
        assert (new.sha256 == old.sha256) == (alone / TUNED).exists() == (folder == own)
        ours, theirs = new.stored().state_dict(), old.stored().state_dict()
        assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


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
