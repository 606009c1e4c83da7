"""The tables of a model are measured, stored beside it, and used by txt2img."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import stages
from PIL import Image

from ldm.core import command
from ldm.core.config_io import from_dict
from ldm.evaluation import quality
from ldm.inference.options import sampler_options
from ldm.model_folder import load_model, save_model
from ldm.process.piecewise import PiecewiseLogSNR
from ldm.process.variance import AnalyticVariance
from ldm.samplers.tuned import TUNED, Tuned, load_tuned, save_tuned

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


def test_a_model_that_is_written_anew_keeps_only_tables_that_are_its_own(model_folder, random_autoencoder, tmp_path):
    model = load_model(model_folder)
    weights = dict(model.stored().state_dict())
    before = save_model(tmp_path, model.config, weights, random_autoencoder)
    variance = AnalyticVariance(logsnr=(1.0, 0.0), gamma=(0.9, 0.1), model=before)
    save_tuned(tmp_path, Tuned(variance=variance, timesteps=(1, 9), paths=((9,),), nats=(3.0,), pictures=8))
    assert save_model(tmp_path, model.config, weights, random_autoencoder) == before
    assert (tmp_path / TUNED).is_file()
    changed = {name: weight + 0.01 for name, weight in weights.items()}
    assert save_model(tmp_path, model.config, changed, random_autoencoder) != before
    assert not (tmp_path / TUNED).exists()


@pytest.mark.slow
def test_quality_chooses_what_steps_alone_then_use(shapes, model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quality, "STEPS", (1, 2, 4))
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    few = ["--samples", "4", "--trajectories", "3", "--levels", "12", "--steps", "4", "--quality", "--device", "cpu"]
    printed = run("tune_sampler", ["--model", folder, "--data", shapes / "val", *few], monkeypatch, capsys)
    tables = load_tuned(folder, load_model(folder).sha256)
    scales = {choice.scale for choice in tables.choices}
    assert {choice.steps for choice in tables.choices} == {1, 2, 4} and 1.0 in scales
    for choice in tables.choices:
        assert choice.distance > 0 and (not choice.logsnr or choice.matched < choice.distance)
        assert f"{choice.steps} steps, scale {choice.scale:g}" in printed
    drawn = run("txt2img", ["--model", folder, "--out", tmp_path, "--steps", "4", "--prompt", "x"], monkeypatch, capsys)
    recipe = json.loads(Image.open(drawn.strip()).info["ldm"])
    chosen = tables.choice(4, recipe["scale"])
    assert recipe["sampler"] == ("matched" if chosen.logsnr else chosen.sampler)


@pytest.mark.slow
def test_a_schedule_is_learned_for_a_model_and_written(shapes, model_folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "schedule.json"
    folders = ["--model", model_folder, "--data", shapes / "train", "--held-out", shapes / "val", "--out", out]
    few = ["--samples", "4", "--levels", "4", "--fit-steps", "5", "--draws", "4", "--cells", "8", "--device", "cpu"]
    printed = run("learn_schedule", [*folders, *few], monkeypatch, capsys)
    assert "linear" in printed and "cosine" in printed
    assert len(from_dict(PiecewiseLogSNR, json.loads(out.read_text()), "schedule").levels) == 9


def run(name, options, monkeypatch, capsys) -> str:
    """What a script prints in this process."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", stages.ROOT / f"scripts/{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
    script.main()
    return capsys.readouterr().out


def test_options_are_words():
    assert sampler_options(["eta=0.5", "variance=upper"]) == {"eta": 0.5, "variance": "upper"}
    with pytest.raises(ValueError, match="--option: 'eta' is not KEY=VALUE"):
        sampler_options(["eta"])


@pytest.mark.slow
def test_bits_on_any_path(tuned, shapes, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("likelihood_script", stages.ROOT / "scripts/likelihood.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def measured(*options) -> list[str]:
        fixed = [shapes / "val", "--model", tuned, "--samples", "2", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["likelihood.py", *map(str, [*fixed, *options])])
        try:
            command.run(script.main)
        except SystemExit as stop:
            assert stop.code == 2
        found = capsys.readouterr()
        return found.err.splitlines() or found.out.splitlines()

    best = load_tuned(tuned, load_model(tuned).sha256).paths[3]
    tables = measured("--path", 4)
    assert tables[4:] == measured("--timesteps", *best)[4:]  # the same numbers by its timesteps
    others = [measured("--path", 4, "--spacing", "even"), measured("--path", 4, "--spacing", "quadratic")]
    others += [measured("--path", 4, "--variance", "upper"), measured("--path", 4, "--variance", "posterior")]
    assert len({tuple(found[4:]) for found in [tables, *others]}) == 5 and all(len(found) > 8 for found in others)
    refused = {
        ("--path", 4, "--timesteps", 3): "--path, --timesteps: two ways",
        ("--captions", "a", "b", "--path", 4): "--path: it is of bits, and --captions has none",
        ("--captions", "a", "b", "--steps", 4): "--steps: it is of bits",
        ("--spacing", "even"): "--spacing: even is of --path",
        ("--variance", "upper"): "--variance: upper is of the steps of",
        ("--timesteps", 5, 5): "timesteps: 5 after 5; give rising timesteps",
        ("--path", 13, "--spacing", "even"): "13 steps, but there are 12 levels",
        ("--timesteps", 1, "--variance", "analytic"): "is not in the variance table",
    }
    for options, message in refused.items():
        (line,) = measured(*options)[-1:]
        assert line.startswith("error: ") and message in line, line
