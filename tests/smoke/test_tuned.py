"""The tables of a model are measured, stored beside it, and used by txt2img."""

import json
import shutil
from pathlib import Path

import pytest
import stages
from PIL import Image

from ldm.inference.options import sampler_options
from ldm.model_folder import load_model
from ldm.samplers.tuned import load_tuned

DRAW = ("--prompt", "a red circle", "--steps", "4", "--spacing", "tuned", "--sampler", "ancestral")
ANALYTIC = ("--option", "variance=analytic")


@pytest.fixture
def tuned(shapes, model_folder, tmp_path) -> Path:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    few = ["--samples", "4", "--trajectories", "2", "--levels", "12", "--steps", "6"]
    stages.finish(stages.start("tune_sampler", "--model", folder, "--data", shapes / "val", *few))
    return folder


@pytest.mark.slow
def test_tables_are_measured_and_used(tuned, tmp_path):
    model = load_model(tuned)
    tables = load_tuned(tuned, model.sha256)
    assert len(tables.timesteps) == 12 and len(tables.paths) == len(tables.ode) == 6
    out = ["--model", tuned, "--out", tmp_path / "drawn"]
    path = stages.finish(stages.start("txt2img", *out, *DRAW, *ANALYTIC)).strip()
    recipe = json.loads(Image.open(path).info["ldm"])
    assert (recipe["spacing"], recipe["options"]) == ("tuned", {"variance": "analytic"})


@pytest.mark.slow
def test_tables_that_are_missing_or_of_another_model_are_refused_in_one_line(tuned, model_folder, tmp_path):
    def refused(folder: Path) -> str:
        process = stages.start("txt2img", "--model", folder, "--out", tmp_path / "drawn", *DRAW)
        _, err = process.communicate(timeout=100)
        assert process.returncode == 2 and len(err.splitlines()) == 1
        return err

    assert "no such file; run scripts/tune_sampler.py" in refused(model_folder)
    changed = json.loads((tuned / "tuned.json").read_text())
    changed["variance"]["model"] = "0" * 64
    (tuned / "tuned.json").write_text(json.dumps(changed))
    assert "measured on model 000000000000" in refused(tuned)


def test_options_are_words():
    assert sampler_options(["eta=0.5", "variance=upper"]) == {"eta": 0.5, "variance": "upper"}
    with pytest.raises(ValueError, match="--option: 'eta' is not KEY=VALUE"):
        sampler_options(["eta"])
