"""What is drawn while a model is trained shows the captions as they are and leaves the training as it was."""

import json
import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
import stages
import torch
from PIL import Image as PilImage
from torch import nn

from ldm.core.ema import Ema
from ldm.model_folder import load_model
from ldm.training.samples import MOST, ROWS, Samples, samples_of


class Training:
    """What `Samples` asks of a Lightning module and its trainer."""

    def __init__(self, model, steps):
        self.model, self.device_mesh = model, None
        self.ema = Ema(model.learned(), 0.9)
        self.trainer = SimpleNamespace(global_step=0, max_steps=steps, is_global_zero=True, loggers=[])


@pytest.fixture
def model(model_folder):
    found = load_model(model_folder)
    found.denoise.requires_grad_(True).train()
    return found


def test_captions_are_drawn_as_they_are_written(model, tmp_path):
    captions = [f"photo (1920:1080), {i} [circles]" for i in range(20)]
    (tmp_path / "data").mkdir()
    for i, caption in enumerate(captions):
        PilImage.new("RGB", (32, 32)).save(tmp_path / "data" / f"{i:02}.png")
        (tmp_path / "data" / f"{i:02}.txt").write_text(caption)
    (samples,) = samples_of(model, str(tmp_path / "data"), tmp_path, steps=1)
    training = Training(model, 1)
    samples.draw(training.trainer, training)
    with PilImage.open(tmp_path / "samples.png") as sheet:
        heads = json.loads(sheet.text["ldm"])["heads"]
    assert heads == captions[::3] and 1 < len(heads) <= MOST


def test_drawing_takes_nothing_from_the_training(model, tmp_path):
    dropping = nn.Dropout(0.5)
    model.denoise.net.add_module("dropping", dropping)
    frozen = next(module for module in model.denoise.net.children())
    frozen.eval()
    seen = []
    model.denoise.net.register_forward_hook(lambda net, *_: seen.append((net.training, dropping.training)))
    training, before = Training(model, 1), torch.get_rng_state()
    Samples(model, ["a red circle"], tmp_path, steps=1).draw(training.trainer, training)
    assert set(seen) == {(False, False)} and torch.equal(torch.get_rng_state(), before)
    assert model.denoise.net.training and dropping.training and not frozen.training


def test_a_sheet_has_an_end_and_rows_of_other_prompts_are_left_out(model, tmp_path):
    training = Training(model, 40)
    Samples(model, ["of an earlier set", "two"], tmp_path, steps=1).draw(training.trainer, training)
    samples = Samples(model, ["a red circle"], tmp_path, steps=1)
    for step in range(1, ROWS + 5):
        training.trainer.global_step = step
        samples.draw(training.trainer, training)
    with PilImage.open(tmp_path / "samples.png") as sheet:
        high = sheet.size[1]
    with PilImage.open(tmp_path / "samples" / "00000001.png") as row:
        times = -(-96 // row.size[0])
        assert (high - 8) // (row.size[1] * times) == ROWS  # and the head


@pytest.mark.slow
def test_a_second_sigterm_does_not_lose_the_step(shapes, random_autoencoder, tmp_path):
    options = stages.ldm_options(shapes, random_autoencoder, tmp_path / "run", "optim.steps=4000", "save_every=3000")
    process = stages.start("train_ldm", *options)
    assert process.stdout is not None
    while "step 50/" not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
    try:
        _, err = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130 and "which is saved" in err.splitlines()[-1], err
