"""From a folder of pictures through both stages to a PNG, with the commands of the README on the smoke recipe."""

import json
import time
from pathlib import Path

import pytest
import stages
from PIL import Image

from ldm.core.bundle import load_bundle


@pytest.mark.slow
def test_pictures_become_a_model_that_draws(shapes, tmp_path):
    end = time.monotonic() + 180  # the recipe's promise, on two cores that other tests share

    def finish(process):
        return stages.finish(process, within=end - time.monotonic())

    stage1, stage2, drawn = tmp_path / "autoencoder", tmp_path / "ldm", tmp_path / "drawn"
    printed = finish(stages.start("train_autoencoder", *stages.autoencoder_options(shapes, stage1)))
    autoencoder = Path(printed.splitlines()[-1])
    assert load_bundle(autoencoder).meta["moments"]["images"] == 24

    printed = finish(stages.start("train_ldm", *stages.ldm_options(shapes, autoencoder, stage2)))
    model = Path(printed.splitlines()[-1])
    assert {path.name for path in model.iterdir()} == {"ldm.safetensors", "autoencoder.safetensors"}

    options = ["--model", model, "--out", drawn, "--prompt", "a red circle", "--count", "2", "--seed", "5"]
    printed = finish(stages.start("txt2img", *options))
    paths = [Path(line) for line in printed.splitlines()]
    assert paths == [drawn / "a-red-circle-5.png", drawn / "a-red-circle-6.png"]
    with Image.open(paths[1]) as picture:
        recipe = json.loads(picture.info["ldm"])
        assert picture.size == (32, 32)
    assert recipe["prompt"] == "a red circle" and recipe["seed"] == 6 and recipe["steps"] == 4
    assert recipe["model"] == load_bundle(model / "ldm.safetensors").sha256
