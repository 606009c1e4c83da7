"""A model draws a subject that it never met as the nearest that it did, says so, and remembers it."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image as PilImage
from stages import ROOT

from ldm.build import build_denoiser, build_guess
from ldm.config import RunConfig
from ldm.core.bundle import save_bundle
from ldm.core.config_io import load
from ldm.model_folder import VOCABULARY, load_model, load_vocabulary, save_model, save_vocabulary
from ldm.nets.guess import GuessSpec
from ldm.nets.vocabulary import Vocabulary
from ldm.training.vocabulary import vocabulary_of


@pytest.fixture(scope="module")
def guessing(random_autoencoder, tmp_path_factory):
    """A random network that reads a random guess, which knows two subjects, and one of them in ink alone."""
    config = load(ROOT / "configs/smoke/ldm.yaml", RunConfig)
    channels = config.net.in_channels
    side = config.sample.size // 4
    spec = GuessSpec(shape=(channels, side, side), width=32)
    config = replace(config, net=replace(config.net, cond_channels=channels), guess=spec)
    torch.manual_seed(1)
    parts = {"net": build_denoiser(config).net, "guess": build_guess(config)}
    weights = {f"{part}.{name}": w for part, module in parts.items() for name, w in module.state_dict().items()}
    noisy = {name: w + 0.05 * torch.randn(w.shape) for name, w in weights.items()}
    folder = tmp_path_factory.mktemp("guessing")
    save_model(folder, config, noisy, random_autoencoder)
    names, shown = ("fox", "red circle"), torch.tensor([[True, False], [True, True]])
    states = load_model(folder).text(names).pooled.half()
    save_vocabulary(folder, Vocabulary(names, states, ("in ink", "in oil"), shown, 1 - torch.eye(2)))
    return folder


def test_it_is_said_and_can_be_refused(txt2img, guessing, tmp_path):
    code, lines, (near,) = txt2img("--prompt", "a sleepy fox, in ink", model=guessing)
    assert code == 0
    assert lines[0] == "'a sleepy fox' is new to this model and drawn as 'fox', the nearest; --literal: as it is"
    code, lines, (literal,) = txt2img(
        "--prompt", "a sleepy fox, in ink", "--literal", model=guessing, out=tmp_path / "literal"
    )
    assert code == 0 and not any("new to this model" in line for line in lines)
    assert literal.read_bytes() != near.read_bytes()
    _, lines, _ = txt2img("--prompt", "a fox, in ink", model=guessing, out=tmp_path / "known")
    assert not any("this model" in line for line in lines)
    _, lines, _ = txt2img("--prompt", "a fox, in oil", model=guessing, out=tmp_path / "oil")
    assert lines[0] == "'a fox' is drawn as it is known, in 'in ink'; --literal: as it is"


@pytest.mark.parametrize("how", [[], ["--literal"]])
def test_a_picture_remembers_how_it_was_read(txt2img, guessing, tmp_path, how):
    _, _, (first,) = txt2img("--prompt", "a sleepy fox, in ink", *how, model=guessing)
    code, lines, (again,) = txt2img("--from-picture", first, model=guessing, out=tmp_path / "again")
    assert code == 0 and again.read_bytes() == first.read_bytes(), lines


def test_a_damaged_list_and_one_of_another_encoder_are_refused(txt2img, guessing, tmp_path):
    path = guessing / VOCABULARY
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        code, lines, _ = txt2img(model=guessing)
        assert code == 2 and len(lines) == 1 and str(path) in lines[0]
        tables = {"states": torch.zeros(1, 5), "shown": torch.ones(1, 1, dtype=torch.bool), "apart": torch.zeros(1, 1)}
        save_bundle(path, {"names": ["fox"], "styles": ["in ink"], "grounds": []}, tables)
        code, lines, _ = txt2img(model=guessing)
        assert code == 2 and lines == [f"error: {path}: states of 5 numbers, and the guess reads 384"]
    finally:
        path.write_bytes(whole)


def test_they_are_the_names_and_styles_of_the_training_pictures(guessing, shapes, tmp_path):
    model = replace(load_model(guessing), vocabulary=None)
    rows = [("a", "comet", "ink"), ("b", "red fox", "ink"), ("c", "comet", "oil"), ("d", "comet", "ink")]
    lines, words = [], {"a": ["tail", "sky"], "b": [], "c": ["sky", "night"], "d": []}
    for file, name, style in rows:
        PilImage.new("RGB", (32, 32), "red").save(tmp_path / f"{file}.png")
        row = {"file_name": f"{file}.png", "text": name, "name": name, "style": style, "style_words": f"in {style}"}
        lines.append(json.dumps(row | {"keywords": words[file]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found = vocabulary_of(model, str(tmp_path))
    assert found.names == ("comet", "red fox") and found.styles == ("in ink", "in oil")
    assert found.shown.tolist() == [[True, True], [True, False]]
    assert found.keywords == (("tail", "sky", "night"), ())
    save_vocabulary(tmp_path, found)
    assert load_vocabulary(tmp_path, 384).key == found.key != replace(found, keywords=()).key
    comet = [model.guess(model.read([f"comet, {style}"]).phrases) for style in found.styles]
    torch.testing.assert_close(found.apart[0, 1], (comet[0] - comet[1]).square().mean())
    assert vocabulary_of(model, str(shapes / "train")) is None  # captions alone say nothing of what is a name


def test_emoji_are_read_as_words_and_other_scripts_are_said_not_to_be(txt2img, guessing, tmp_path):
    code, lines, (first,) = txt2img("--prompt", "🔴", model=guessing)
    assert code == 0 and lines[0] == "'🔴' is read as 'large red circle'", lines
    code, _, (again,) = txt2img("--from-picture", first, model=guessing, out=tmp_path / "again")
    assert code == 0 and again.read_bytes() == first.read_bytes()
    _, lines, _ = txt2img("--prompt", "تفاحة", model=guessing)
    assert any("reads English alone" in line for line in lines), lines
