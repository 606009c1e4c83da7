"""Guidance beyond its scale, from the command line to the picture: what it changes, saves and refuses."""

import json
import shutil

import pytest
import stages
import torch
from PIL import Image

from ldm.core.bundle import load_bundle, save_bundle
from ldm.denoiser import counted
from ldm.guidance.spec import GuidanceSpec
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.weaker import WeakModel
from ldm.model_folder import load_model


def recipe(path):
    return json.loads(Image.open(path).text["ldm"])


def test_the_plain_rule_by_another_name_is_the_plain_rule(model_folder):
    model = load_model(model_folder)
    request = {"prompts": ("a red circle",), "seeds": (0,), "steps": 3}
    plain = txt2img(model, Request(**request), dtype=torch.float32)
    same = GuidanceSpec(rule="apg", parallel=1.0)
    torch.testing.assert_close(txt2img(model, Request(**request, guidance=same), dtype=torch.float32), plain)
    other = GuidanceSpec(rule="apg", norm=0.5, contrast=0.7)
    assert (txt2img(model, Request(**request, guidance=other), dtype=torch.float32) - plain).abs().max() > 1e-4


def test_an_interval_saves_what_it_says(model_folder):
    model = load_model(model_folder)
    rows = {}
    for hi in (None, 0.0):
        with counted(model.denoise) as count:
            request = Request(prompts=("x",), seeds=(0,), steps=8, guidance=GuidanceSpec(hi=hi))
            txt2img(model, request, dtype=torch.float32)
        rows[hi] = count.rows
        assert count.calls == 8
    assert rows[None] == 16 and 8 < rows[0.0] < 16


def test_autoguidance_by_the_model_itself_changes_nothing_but_by_another_does(model_folder, tmp_path):
    model = load_model(model_folder)
    request = {"prompts": ("x",), "seeds": (0,), "steps": 3, "scale": 1.0}
    plain = txt2img(model, Request(**request), dtype=torch.float32)
    itself = WeakModel(model=model, scale=3.0)
    torch.testing.assert_close(
        txt2img(model, Request(**request, away=itself), dtype=torch.float32), plain, rtol=1e-4, atol=1e-4
    )
    folder = shutil.copytree(model_folder, tmp_path / "weak")
    bundle = load_bundle(folder / "ldm.safetensors")
    weights = {name: w * 0.9 for name, w in bundle.weights.items()}
    save_bundle(folder / "ldm.safetensors", bundle.config, weights, **bundle.meta)
    weak = WeakModel(model=load_model(folder), scale=3.0)
    assert (txt2img(model, Request(**request, away=weak), dtype=torch.float32) - plain).abs().max() > 1e-3


def test_the_picture_remembers_its_guidance(txt2img, model_folder):
    options = ["--guidance", "rule=apg", "--guidance", "norm=5", "--weak", model_folder, "--weak-scale", "1.5"]
    code, lines, files = txt2img(*options)
    assert code == 0, lines
    found = recipe(files[0])
    assert found["guidance"] == {**found["guidance"], "rule": "apg", "norm": 5.0}
    assert found["weak_scale"] == 1.5 and found["evaluations"] == 6  # two steps: with, without, weak


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--guidance", "norm=5"], ["belong to the rule 'apg'"]),
        (["--guidance", "rule"], ["--guidance", "not KEY=VALUE"]),
        (["--guidance", "role=apg"], ["--guidance.role", "did you mean 'rule'"]),
        (["--guidance", "lo=2", "--guidance", "hi=1"], ["do not rise"]),
        (["--guidance", "contrast=2"], ["phi"]),
        (["--weak-scale", "2"], ["--weak-scale", "give --weak"]),
        (["--weak", "nowhere"], ["nowhere", "no such model folder"]),
        (["--sampler", "dpm_solvr"], ["did you mean 'dpm_solver'"]),
        (["--sampler", "unipc", "--option", "eta=1"], ["'eta' is unknown"]),
        (["--sampler", "heun", "--option", "churn_lo=1"], ["no churn to bound"]),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(txt2img, options, words):
    stages.assert_refused(txt2img(*options), *words)
