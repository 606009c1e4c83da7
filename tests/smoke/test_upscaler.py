"""An upscaler: trained and resumed by the scripts, true to its seed, its input and its refusals."""

import importlib.util
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
import stages
import torch
from PIL import Image

from ldm.build import build_denoiser
from ldm.config import PredictionSpec, RunConfig
from ldm.core import command
from ldm.core.config_io import load
from ldm.core.images import interpolated
from ldm.denoiser import bind
from ldm.inference.lowres import LowRes, low_latent
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.upscale import Upscale, upscale
from ldm.model_folder import load_model, save_model

CONFIG = stages.ROOT / "configs/smoke/upscale.yaml"
LEVEL = 2 / 255  # one 8-bit level of a picture in [-1, 1]


@pytest.fixture(scope="module")
def folder(random_autoencoder, tmp_path_factory):
    """An upscaler with the smoke recipe's network, untrained but for noise in the layers that start at zero."""
    config = load(CONFIG, RunConfig)
    torch.manual_seed(1)
    weights = build_denoiser(config).net.state_dict()
    folder = tmp_path_factory.mktemp("upscaler")
    save_model(
        folder, config, {name: w + 0.05 * torch.randn(w.shape) for name, w in weights.items()}, random_autoencoder
    )
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return interpolated(torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1, height, width).clamp(-1, 1)


def request(count: int, **changes) -> Upscale:
    return replace(Upscale(prompts=("a",) * count, seeds=tuple(range(7, 7 + count)), steps=2), **changes)


@pytest.mark.slow
def test_trained_by_the_scripts_it_resumes_and_enlarges(shapes, random_autoencoder, tmp_path):
    settings = [f"data.train={shapes}/train", f"data.val={shapes}/val", f"data.cache={tmp_path}/cache"]
    settings += [f"codec.path={random_autoencoder}", "validate_every=2"]
    for steps in (2, 4):
        options = [part for setting in (*settings, f"optim.steps={steps}") for part in ("--set", setting)]
        running = stages.start("train_ldm", "--config", CONFIG, "--out", tmp_path / "run", *options)
        trained = stages.finish(running).splitlines()[-1]
    small = tmp_path / "small.png"
    Image.new("RGB", (20, 13), "teal").save(small)
    done = stages.finish(stages.start("upscale", "--image", small, "--model", trained, "--out", tmp_path / "out"))
    with Image.open(done.strip()) as picture:
        assert picture.size == (40, 26)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (5, 9), (21, 13)])
def test_any_size_becomes_its_multiple(model, height, width):
    large = upscale(model, pictures(1, height, width), request(1))
    assert large.shape == (1, 3, 2 * height, 2 * width) and large.abs().max() <= 1


def test_the_factor_can_be_any_that_was_trained(model):
    assert upscale(model, pictures(1, 8, 8), request(1, factor=4)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_seed_gives_the_same_picture_in_any_batch(model, noise):
    small = pictures(3, 16, 20)
    how = request(3, noise=noise, restore=True)
    together = upscale(model, small, how, dtype=torch.float32)
    in_parts = upscale(model, small, replace(how, batch=1), dtype=torch.float32)
    alone = upscale(model, small[1:2], request(1, seeds=(8,), noise=noise, restore=True), dtype=torch.float32)
    assert (together - in_parts).abs().max() <= LEVEL and (together[1:2] - alone).abs().max() <= LEVEL
    assert (upscale(model, small, replace(how, seeds=(17, 18, 19))) - together).abs().max() > 5 * LEVEL


def test_the_network_reads_picture_and_level(model):
    generator = torch.Generator().manual_seed(0)
    x, logsnr = torch.randn(1, 4, 8, 8, generator=generator), torch.zeros(1)
    plain = model.condition(["a"])

    def said(channels: torch.Tensor) -> torch.Tensor:
        return bind(model.denoise, replace(plain, channels=channels))(x, logsnr).x0

    zero, picture, level = torch.zeros(1, 5, 8, 8), torch.zeros(1, 5, 8, 8), torch.zeros(1, 5, 8, 8)
    picture[:, :4], level[:, 4] = torch.randn(1, 4, 8, 8, generator=generator), 0.5
    assert torch.equal(said(zero), said(zero.clone()))
    assert (said(picture) - said(zero)).abs().max() > 0.01 and (said(level) - said(zero)).abs().max() > 0.01


def test_a_network_that_says_nothing_gives_the_enlarged_picture(model):
    """A correction that is estimated as zero is zero, so what is decoded is the small picture's own latent."""
    silent = build_denoiser(replace(model.config, prediction=PredictionSpec(kind="x0")))  # a new network says 0
    small = pictures(2, 16, 16)
    drawn = Request(prompts=("", ""), seeds=(0, 1), steps=4, low=LowRes(small=small), height=32, width=32)
    result = txt2img(replace(model, denoise=silent), drawn, dtype=torch.float32)
    with torch.inference_mode():
        wanted = model.codec.decode(low_latent(model.codec, small, 32, 32)).clamp(-1, 1)
    torch.testing.assert_close(result, wanted, atol=1e-4, rtol=0)


@pytest.fixture
def run_upscale(folder, tmp_path, monkeypatch, capsys):
    """Run the script in this process; returns exit code, lines of stderr, and the pictures."""
    spec = importlib.util.spec_from_file_location("upscale_script", stages.ROOT / "scripts/upscale.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def call(*options, model=folder):
        out = tmp_path / "large"
        fixed = ["--model", model, "--out", out, "--device", "cpu", "--dtype", "float32", "--steps", "2"]
        monkeypatch.setattr(sys, "argv", ["upscale.py", *map(str, [*fixed, *options])])
        code = 0
        try:
            command.run(script.main)
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err.splitlines(), sorted(out.iterdir()) if out.is_dir() else []

    return call


@pytest.fixture
def small_file(tmp_path):
    path = tmp_path / "small.png"
    Image.fromarray(np.full((16, 16, 4), (200, 30, 60, 128), np.uint8)).save(path)
    return path


def test_the_script_enlarges_what_can_be_seen_through_over_white(run_upscale, small_file):
    code, lines, (path,) = run_upscale("--image", small_file)
    assert code == 0 and lines == []
    with Image.open(path) as picture:
        assert picture.size == (32, 32) and picture.mode == "RGB" and path.name == "small-x2.png"
        assert np.asarray(picture).mean((0, 1)) == pytest.approx([227, 142, 157], abs=2)  # held to the small one


def test_txt2img_enlarges_what_it_drew(txt2img, folder):
    code, lines, (path,) = txt2img("--prompt", "a circle", "--upscale", folder)
    assert code == 0, lines
    with Image.open(path) as picture:
        assert picture.size == (64, 64) and "upscaler" in picture.text["ldm"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image", "missing.png"], ["missing.png"]),
        (["--seed", "-1"], ["--seed"]),
        (["--factor", "3"], ["factor", "2, 4"]),
        (["--noise", "0.6"], ["noise", "0.5"]),
        (["--steps", "0"], ["steps"]),
    ],
)
def test_the_script_refuses_in_one_line(run_upscale, small_file, options, words):
    stages.assert_refused(run_upscale("--image", small_file, *options), *words)


def test_models_for_other_work_are_refused_in_one_line(run_upscale, small_file, model_folder, txt2img, folder):
    stages.assert_refused(run_upscale("--image", small_file, model=model_folder), "no upscaler", "emoji-upscaler")
    stages.assert_refused(txt2img("--prompt", "a", model=folder), "enlarges", "scripts/upscale.py")
    stages.assert_refused(txt2img("--prompt", "a", "--upscale", model_folder), "no upscaler")


def test_the_benchmark_sets_it_beside_interpolation_and_the_limit(folder, shapes, tmp_path, monkeypatch, capsys):
    options = ["--model", folder, "--data", shapes / "val", "--size", "32", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["upscaling.py", *map(str, options), "--sheet", str(tmp_path / "sheet.png")])
    runpy.run_path(str(stages.ROOT / "benchmarks/upscaling.py"))["main"]()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    for method in (
        "bicubic ",
        "Lanczos ",
        "bicubic, through the autoencoder ",
        "ours, 1 step ",
        "the autoencoder's limit ",
    ):
        assert sum(row.startswith(f"| {method}") for row in rows) == 2  # figures
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (5 * 34 + 2, 34 + 2)  # one picture of the only batch


def test_pictures_that_are_not_one_for_each_prompt_are_refused(model):
    with pytest.raises(ValueError, match="small: 2 pictures for 1 prompts"):
        txt2img(model, Request(prompts=("a",), seeds=(0,), low=LowRes(small=pictures(2, 16, 16))))


def test_a_result_beyond_measure_is_refused(model):
    with pytest.raises(ValueError, match="more than"):
        upscale(model, torch.zeros(1, 3, 4096, 4097), request(1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["net.cond_channels=4"], r"net\.cond_channels: 4, but an upscaler reads 5"),
        (["low={factors: [3]}"], "must divide"),
        (["guess={shape: [5, 8, 8]}"], "guess, low"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        load(CONFIG, RunConfig, changes)
