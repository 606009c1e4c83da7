"""The commands as a user gives them: draw from a file, convert it, fine-tune it, take it out again."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm.config import CodecSpec, DataSpec
from ldm.convert.compvis import write_compvis
from ldm.convert.native import write_native
from ldm.convert.opening import open_model, read_parts
from ldm.core import command
from ldm.core.optim import OptimSpec
from ldm.model_folder import load_model
from ldm.training.fit import fit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process; returns exit code, lines of stdout, lines of stderr."""

    def call(name: str, *options: str | Path):
        spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / f"scripts/{name}.py")
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
        code = 0
        try:
            command.run(script.main)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return call


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "v1.safetensors"
    write_compvis(small.made("1", torch.float16), path)
    return path


def test_a_file_is_drawn_with(run, file, tmp_path):
    options = ["--out", tmp_path / "drawn", "--steps", "1", "--width", "32", "--height", "32", "--device", "cpu"]
    code, lines, _ = run("txt2img", "--model", file, "--prompt", "a cat", *options)
    assert code == 0 and Image.open(lines[0]).size == (32, 32)
    drawn = Path(lines[0])
    code, lines, errors = run("txt2img", "--from-picture", drawn, "--device", "cpu", "--out", tmp_path / "again")
    assert code == 0 and Path(lines[0]).read_bytes() == drawn.read_bytes(), errors
    options += ["--prompt", "a cat"]
    code, _, errors = run("txt2img", "--model", tmp_path / "none.safetensors", *options)
    assert code == 2 and errors == [f"error: {tmp_path / 'none.safetensors'}: no such file"]
    code, _, errors = run("txt2img", "--model", tmp_path / "none", *options)
    assert code == 2 and len(errors) == 1 and "no such model folder" in errors[0]


def test_a_file_can_be_the_weak_model_and_be_measured(run, file, tmp_path):
    options = ["--steps", "1", "--width", "32", "--height", "32", "--device", "cpu", "--dtype", "float32"]
    options += ["--model", file, "--prompt", "a cat", "--scale", "1"]
    drawn = [
        run("txt2img", *options, *more, "--out", tmp_path / out)
        for out, more in {"alone": [], "itself": ["--weak", file, "--weak-scale", "3"]}.items()
    ]
    alone, itself = (np.asarray(Image.open(lines[0])).astype(int) for _, lines, _ in drawn)
    assert abs(alone - itself).max() <= 1  # a model moved away from itself stays where it is
    code, _, errors = run("evaluate", "--model", file, "--what", "captions", "--data", tmp_path / "no data")
    assert code == 2 and len(errors) == 1 and "no data" in errors[0]  # the model was opened


def test_all_layouts_make_the_same_model(run, file, tmp_path):
    places = {
        "diffusers": tmp_path / "folder",
        "native": tmp_path / "native",
        "compvis": tmp_path / "again.safetensors",
    }
    source = file
    for layout, place in places.items():
        assert run("convert", source, place, "--to", layout) == (0, [str(place)], [])
        source = place
    assert load_file(places["compvis"]).keys() == load_file(file).keys()
    models = [open_model(path) for path in (file, *places.values())]
    for model in models[1:]:
        assert model.latents == models[0].latents and model.config.prediction == models[0].config.prediction
        ours, first = model.stored().state_dict(), models[0].stored().state_dict()
        assert ours.keys() == first.keys() and all(torch.equal(ours[n], first[n]) for n in first)
    assert all(len(model.sha256) == 64 for model in models)
    run("convert", file, tmp_path / "wide.safetensors", "--to", "compvis", "--dtype", "float32")
    assert {t.dtype for t in load_file(tmp_path / "wide.safetensors").values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("source", "out", "layout", "words"),
    [
        ("v1.safetensors", "v1.safetensors", "compvis", "is what is read"),
        ("v1.safetensors", "new.ckpt", "compvis", "end in .safetensors"),
        ("v1.safetensors", ".", "compvis", "is a folder"),
        ("none.safetensors", "new", "native", "no such file"),
    ],
)
def test_conversions_that_are_refused(run, file, tmp_path, source, out, layout, words):
    code, lines, errors = run("convert", tmp_path / source, tmp_path / out, "--to", layout)
    assert (code, lines, len(errors)) == (2, [], 1) and words in errors[0]


def test_the_shipped_model_has_no_place_there(run, tmp_path):
    code, _, errors = run("convert", ROOT / "models/emoji", tmp_path / "out", "--to", "diffusers")
    assert code == 2 and len(errors) == 1 and "'sentence' encoder has no place" in errors[0]
    assert not (tmp_path / "out").exists()


def test_other_commands_say_how_to_get_a_model_folder(file):
    with pytest.raises(ValueError, match="this is a file; `scripts/convert.py IN OUT --to native`"):
        load_model(file)


def test_fine_tuned_and_out_again(tmp_path):
    parts = small.made("1")
    write_native(parts, tmp_path / "start")
    for i, colour in enumerate(["red", "green", "blue", "black"]):
        for folder in ("train", "val"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(tmp_path / folder / f"{i}.png")
            (tmp_path / folder / f"{i}.txt").write_text(f"a {colour} square")
    config = replace(
        parts.config,
        codec=CodecSpec(path=str(tmp_path / "start" / "autoencoder.safetensors"), scale=0.18215),
        sample=replace(parts.config.sample, size=32, steps=1),
        data=DataSpec(**{name: str(tmp_path / name) for name in ("train", "val", "cache")}, size=32, batch=2, views=1),
        optim=OptimSpec(lr=1e-3, steps=2, warmup=0, ema=0.5),
        validate_every=2,
        save_every=2,
        precision="32-true",
    )
    with pytest.raises(ValueError, match="would stay random; .* or give --init"):
        fit(config, tmp_path / "run")
    tuned = read_parts(fit(config, tmp_path / "run", tmp_path / "start"))
    assert all(torch.equal(tuned.text[n], t.bfloat16()) for n, t in parts.text.items())
    assert not all(torch.equal(tuned.net[n], t.bfloat16()) for n, t in parts.net.items())
    write_compvis(tuned, tmp_path / "tuned.safetensors")
    assert small.same(read_parts(tmp_path / "tuned.safetensors"), replace(tuned, config=parts.config))
