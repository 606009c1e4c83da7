"""scripts/evaluate.py end to end, with a random model a few pixels wide."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from painted import COLOURS, SIZE, STYLES, MeanColour, write_folder
from PIL import Image as PilImage
from torch import nn

from autoencoder import perceptual
from autoencoder.build import save_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.model import Autoencoder, AutoencoderSpec
from autoencoder.stats import LatentMoments
from ldm.build import build_denoiser
from ldm.codec import IdentityCodec
from ldm.config import CodecSpec, RunConfig, SampleSpec
from ldm.core.command import run
from ldm.evaluation import command
from ldm.evaluation.parts import Plan, measure_autoencoder
from ldm.model_folder import save_model
from ldm.nets.unet import UNetSpec

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
STAGE_1 = AutoencoderSpec(latent_channels=2, channels=8, mult=(1, 2), blocks=1, norm_groups=4)
STAGE_2 = UNetSpec(
    in_channels=2,
    out_channels=2,
    channels=8,
    mult=(1, 2),
    blocks=1,
    attention_levels=(1,),
    heads=2,
    norm_groups=4,
    context_dim=384,
    pooled_dim=384,
)


class MeanDifference(nn.Module):
    """In the place of LPIPS, which is slow to load and needs larger pictures."""

    def forward(self, a, b):
        return (a - b).abs().mean((1, 2, 3))


@pytest.fixture
def data(tmp_path):
    """One picture of every concept but (sun, dot), which is held out, and a concept that nothing else shows."""
    cells = [(concept, style) for concept in COLOURS for style in STYLES]
    write_folder(tmp_path / "data" / "train", [cell for cell in cells if cell not in (("sun", "dot"), ("sea", "dot"))])
    write_folder(tmp_path / "data" / "heldout_cells", [("sun", "dot"), ("sea", "dot")])
    write_folder(tmp_path / "data" / "heldout_concepts", [("leaf", "dot")])
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path):
    """A model folder with random weights, and the bundle of its stage 1 beside it."""
    moments = LatentMoments(mean=(0.0, 0.0), std=(1.0, 1.0), images=1)
    stage_1 = tmp_path / "stage-1.safetensors"
    save_autoencoder(stage_1, AutoencoderConfig(model=STAGE_1), Autoencoder(STAGE_1), moments)
    config = RunConfig(codec=CodecSpec(path=str(stage_1)), net=STAGE_2, sample=SampleSpec(size=SIZE, scale=2.0))
    save_model(tmp_path / "model", config, build_denoiser(config).net.state_dict(), stage_1)
    return tmp_path / "model"


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """The script in this process, with small networks for the two that look at pictures: code, stdout, stderr."""
    monkeypatch.setattr(command, "load_feature_net", MeanColour)
    monkeypatch.setattr(perceptual, "load_lpips", lambda net: MeanDifference())

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--device", "cpu", *map(str, options)])
        code = 0
        try:
            run(runpy.run_path(str(SCRIPT))["main"])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def figures(out: str) -> dict[tuple[str, str], list[str]]:
    """(pictures, figure) -> value, error, n of every line of every table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[2:] for row in rows if row[0] != "pictures"}


def test_all_figures_of_a_model(evaluate, data, model, tmp_path):
    sheet = tmp_path / "sheets" / "drawn.png"
    options = ["--model", model, "--data", data, "--samples", 3, "--seed", 7, "--steps", 2, "--grid", sheet]
    code, out, err = evaluate(*options)
    assert code == 0, err
    assert "seed 7, 3 samples, 2 steps of dpm_solver, trailing, scale 2" in out.splitlines()[0]
    assert "no concept has a keyword that no other has" in out  # told, and the other tables follow
    found = figures(out)
    assert {name for picture, name in found if picture == "held-out concepts"} == {
        "PSNR (dB)",
        "SSIM",
        "LPIPS (alex)",
        "KL (nats/dim)",
    }
    assert found["held-out cells", "PSNR (dB)"][2] == "4"  # two pictures, on white and on a colour
    assert found["training concepts, drawn", "top-1"][2] == "3"
    assert found["held-out cells, real", "top-1"][::2] == ["1.0000", "2"]
    assert found["held-out cells, drawn", "FD-effnet-lite0"][2] == found["held-out cells, real", "FD-effnet-lite0"][2]
    with PilImage.open(sheet) as drawn:
        assert drawn.size == (8 * (SIZE + 2) + 2, SIZE + 4)  # 3 + 2 pictures in one row of 8
        assert '"seed": 7' in drawn.text["ldm"]
    assert figures(evaluate(*options, "--batch", 1)[1]) == found


def test_words_that_training_never_used_are_drawn_and_judged(evaluate, data, model):
    code, out, err = evaluate("--model", model, "--data", data, "--what", "words", "--samples", 3, "--steps", 2)
    assert code == 0, err
    assert figures(out)["unseen words, drawn", "top-1"][2] == "1"  # of the concepts here, "sun" alone has such words


def test_keywords_that_one_concept_has_alone_are_drawn_and_judged(evaluate, data, model):
    code, out, err = evaluate("--model", model, "--data", data, "--what", "keywords", "--samples", 3, "--steps", 2)
    assert code == 2 and err.endswith("no concept has a keyword that no other has\n") and len(err.splitlines()) == 1
    path = data / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    words = {"apple": ["fruit", "nature", "red"], "leaf": ["nature"], "sea": ["apple"], "sun": ["star", "nature"]}
    path.write_text("\n".join(json.dumps(row | {"keywords": words[row["concept"]]}) for row in rows))
    code, out, err = evaluate("--model", model, "--data", data, "--what", "keywords", "--samples", 3, "--steps", 2)
    assert code == 0, err
    assert figures(out)["keywords, drawn", "top-1"][2] == "2"  # of the apple and the sun


def test_another_sampler_draws_other_pictures_and_is_named(evaluate, data, model, tmp_path):
    same = ["--model", model, "--data", data, "--what", "concepts", "--samples", 3, "--steps", 3]
    drawn = {}
    for how in ((), ("--sampler", "ddim"), ("--sampler", "ddim", "--option", "eta=1"), ("--spacing", "leading")):
        code, out, err = evaluate(*same, *how, "--grid", tmp_path / "drawn.png")
        assert code == 0, err
        named = (
            f"3 steps of {'ddim' if 'ddim' in how else 'dpm_solver'}, {'leading' if 'leading' in how else 'trailing'}"
        )
        assert named in out.splitlines()[0]
        with PilImage.open(tmp_path / "drawn.png") as sheet:
            drawn[how] = sheet.tobytes()
    assert len(set(drawn.values())) == 4


def test_a_bundle_of_stage_1_scores_as_in_its_model(evaluate, data, model, tmp_path):
    same = ["--data", data, "--what", "autoencoder"]
    code, alone, err = evaluate(*same, "--autoencoder", tmp_path / "stage-1.safetensors", "--size", SIZE)
    assert code == 0, err
    whole = figures(evaluate(*same, "--model", model)[1])
    for key, (value, _, n) in figures(alone).items():
        assert float(value) == pytest.approx(float(whole[key][0]), rel=0.02)  # a model keeps stage 1 in float16
        assert n == whole[key][2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "1"], "samples: 1"),
        (["--steps", "0"], "steps"),
        (["--scale", "-1"], "scale"),
        (["--sampler", "ddmi"], "ddim"),
        (["--spacing", "trialing"], "trailing"),
        (["--option", "eta"], "--option"),
        (["--size", "18"], "height: 18"),
        (["--data", "nowhere"], "nowhere/train: no such folder"),
        (["--autoencoder", "stage-1.safetensors"], "--what: 'all'"),
        (["--model", "nowhere"], "nowhere: no such model"),
        (["--grid", "/dev/null/a.png"], "/dev/null"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(evaluate, data, model, options, message):
    code, out, err = evaluate("--model", model, "--data", data, *options)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not figures(out), "refused after work was done"


def test_pixel_space_has_no_first_stage(data):
    with pytest.raises(ValueError, match="works on pixels"):
        measure_autoencoder(Plan(data=data, size=SIZE), IdentityCodec(), {}, torch.device("cpu"))
