"""Drawing from pictures on the command line, and drawing what was drawn again from what it remembers."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stages
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm.build import build_denoiser
from ldm.config import RunConfig
from ldm.convert.lora import write_lora
from ldm.core.config_io import load
from ldm.inference import command, redraw
from ldm.model_folder import load_model, save_model
from ldm.nets.lora import Lora, LowRank

SQUARE = ["--prompt", "a red circle", "--image"]


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask(tmp_path):
    drawn = np.zeros((32, 32), dtype=np.uint8)
    drawn[8:20, 10:32] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture(scope="module")
def lora(model_folder, tmp_path_factory):
    """A LoRA that changes every attention to the words."""
    model, generator = load_model(model_folder), torch.Generator().manual_seed(0)
    weights = {n: p for n, p in model.learned().named_parameters() if n.endswith("cross_attention.to_v.weight")}
    assert weights

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    changes = {n: LowRank(down=normal(2, p.shape[1]), up=normal(p.shape[0], 2), alpha=2.0) for n, p in weights.items()}
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    write_lora(path, Lora(changes, model.sha256), "ldm")
    return path


@pytest.fixture(scope="module")
def upscaler(random_autoencoder, tmp_path_factory):
    """The smoke recipe's upscaler, untrained but for noise in the layers that start at zero."""
    config = load(stages.ROOT / "configs/smoke/upscale.yaml", RunConfig)
    config = replace(config, sample=replace(config.sample, steps=2))
    torch.manual_seed(2)
    weights = build_denoiser(config).net.state_dict()
    folder = tmp_path_factory.mktemp("upscaler")
    noisy = {name: w + 0.05 * torch.randn(w.shape) for name, w in weights.items()}
    save_model(folder, config, noisy, random_autoencoder)
    return folder


def remembered(path):
    return json.loads(Image.open(path).text["ldm"])


def with_options(path, **changes):
    """The picture at `path`, rewritten to remember other options."""
    with Image.open(path) as picture:
        recipe, info = json.loads(picture.text["ldm"]), PngInfo()
        info.add_text("ldm", json.dumps(recipe | {"command": recipe["command"] | changes}))
        picture.save(path, pnginfo=info)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--negative", "blue, (green)", "--sampler", "ddim", "--option", "eta=0.7", "--scale", "2.5", "--width", "48"],
        ["--guidance", "rule=apg", "--guidance", "lo=-4", "--count", "3", "--batch", "2"],
        ["--image", "PICTURE", "--strength", "0.5"],
        ["--image", "PICTURE", "--mask", "MASK", "--feather", "2", "--resample", "2", "--sampler", "ancestral"],
        ["--image", "PICTURE", "--extend", "8,0,3,5"],
        ["--image", "PICTURE", "--vary", "0.3"],
        ["--to-prompt", "a blue square", "--to-seed", "9", "--frames", "3"],
        ["--variation-seed", "4", "--variation-strength", "0.2", "--count", "2"],
        ["--tile", "--attention", "plain", "--count", "2"],
        ["--lora", "LORA:0.8"],
        ["--lora", "LORA:0.8", "--lora", "LORA", "--count", "2"],
        ["--upscale", "UPSCALER"],
        ["--upscale", "UPSCALER", "--count", "3", "--batch", "2", "--lora", "LORA:-0.5"],
        ["--upscale", "UPSCALER", "--to-prompt", "a blue square", "--frames", "2"],
    ],
)
def test_every_picture_is_drawn_again_to_the_byte(txt2img, picture, mask, lora, upscaler, tmp_path, options):
    files = {"PICTURE": picture, "MASK": mask, "UPSCALER": upscaler}
    options = [word.replace("LORA", str(lora)) for word in options]
    code, lines, drawn = txt2img("--seed", "5", *(files.get(word, word) for word in options))
    assert code == 0, lines
    last = drawn[-1]
    code, lines, again = txt2img("--from-picture", last, out=tmp_path / "again")
    assert code == 0 and len(lines) == 1, lines
    assert [path.name for path in again] == [last.name] and again[0].read_bytes() == last.read_bytes()


def test_options_beside_it_change_what_they_say(txt2img, tmp_path):
    _, _, (first,) = txt2img("--seed", "5", "--sampler", "ddim", "--scale", "2")
    code, _, (other,) = txt2img("--from-picture", first, "--seed", "6", out=tmp_path / "other")
    _, _, (wanted,) = txt2img("--seed", "6", "--sampler", "ddim", "--scale", "2", out=tmp_path / "wanted")
    assert code == 0 and other.read_bytes() == wanted.read_bytes()


def test_how_it_was_computed_is_remembered_and_can_be_changed(txt2img, tmp_path, monkeypatch):
    _, _, (tiled,) = txt2img("--tile", "--attention", "plain")
    used = []
    placed = command.placed
    monkeypatch.setattr(command, "placed", lambda model, how: used.append(how) or placed(model, how))
    for options in ([], ["--no-tile", "--attention", "sdpa"]):
        code, lines, _ = txt2img("--from-picture", tiled, *options, out=tmp_path / "again")
        assert code == 0, lines
    assert [(how.tile, how.attention) for how in used] == [(True, "plain"), (False, "sdpa")]


def test_how_it_was_computed_is_refused_in_one_line_where_it_cannot_be(txt2img, tmp_path, monkeypatch):
    _, _, (path,) = txt2img("--seed", "5")
    before = path.read_bytes()
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    for changes, word in (({"attention": "xformers"}, "xformers cannot be imported"), ({"compile": True}, "--compile")):
        with_options(path, **changes)
        stages.assert_refused(txt2img("--from-picture", path, out=tmp_path / "no"), str(path), word, "--attention auto")
        around = ("--from-picture", path, "--attention", "auto", "--no-compile")
        code, lines, (again,) = txt2img(*around, out=tmp_path / word)
        assert code == 0, lines
        assert (pixels(again) == pixels(path)).all()
    with_options(path, attention="auto", compile=False, offload=True)  # of a GPU, and of no say in the pixels
    code, lines, (again,) = txt2img("--from-picture", path, out=tmp_path / "here")
    assert code == 0 and again.read_bytes() == before, lines


def test_a_lora_and_its_scale_decide_the_picture(txt2img, lora, tmp_path):
    drawn = [
        txt2img("--seed", "5", *options, out=tmp_path / str(i))[2][0]
        for i, options in enumerate([[], ["--lora", f"{lora}:0.8"], ["--lora", lora]])
    ]
    assert len({pixels(path).tobytes() for path in drawn}) == 3
    lora_again = tmp_path / "lora"
    code, _, (again,) = txt2img("--from-picture", drawn[1], "--seed", "6", out=lora_again)
    assert code == 0 and remembered(again)["loras"] == [f"{lora}:0.8"]


@pytest.mark.parametrize("name", ["lora", "upscale"])
def test_another_file_of_the_same_name_is_refused(txt2img, lora, upscaler, tmp_path, name):
    made = {"lora": lora, "upscale": upscaler / "ldm.safetensors"}[name]
    given = {"lora": f"{lora}:0.8", "upscale": upscaler}[name]
    _, _, (path,) = txt2img(f"--{name}", given)
    content = made.read_bytes()
    tensors, header = load_file(made), safe_open(made, "pt").metadata()
    first = next(iter(tensors))
    try:
        save_file(tensors | {first: tensors[first] + 1}, made, header)
        stages.assert_refused(
            txt2img("--from-picture", path, out=tmp_path / "again"), str(path), f"its {name} was another"
        )
    finally:
        made.write_bytes(content)


def test_the_shipped_upscaler_is_found_in_another_checkout(txt2img, upscaler, tmp_path):
    _, _, (path,) = txt2img("--upscale", upscaler)
    with_options(path, upscale="/gone/models/emoji-upscaler")
    assert redraw.remembered(path, stages.ROOT / "models")["upscale"] == stages.ROOT / "models" / "emoji-upscaler"


def test_a_model_that_moved_makes_the_same_file(txt2img, model_folder, tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    shutil.copytree(model_folder, first)
    _, _, (path,) = txt2img(model=first)
    assert redraw.remembered(path, tmp_path / "models")["model"] == first
    first.rename(second)
    first.mkdir()  # of the same name, and no model
    assert "model" not in redraw.remembered(path, tmp_path / "models")
    code, lines, (again,) = txt2img("--from-picture", path, model=second, out=tmp_path / "again")
    assert code == 0 and again.read_bytes() == path.read_bytes(), lines


def test_a_path_does_not_tell_the_users_name(txt2img, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(model_folder, tmp_path / "mine")
    _, _, (path,) = txt2img(model=tmp_path / "mine")
    assert remembered(path)["facts"]["model path"] == "~/mine"
    assert redraw.remembered(path, tmp_path / "models")["model"] == tmp_path / "mine"


def test_emoji_of_older_pictures_stay_as_they_were_read(txt2img, tmp_path):
    _, _, (path,) = txt2img("--prompt", "a red circle")
    assert not redraw.remembered(path, tmp_path)["unspelled"]
    with Image.open(path) as picture:
        recipe, info = remembered(path), PngInfo()
        recipe["facts"].pop("symbols")
        info.add_text("ldm", json.dumps(recipe))
        picture.save(path, pnginfo=info)
    assert redraw.remembered(path, tmp_path)["unspelled"]


def test_a_picture_of_the_upscaler_says_who_makes_it_again(txt2img, picture, upscaler, tmp_path, monkeypatch):
    from scripts.upscale import main

    monkeypatch.setattr(
        sys, "argv", ["upscale.py", "--image", str(picture), "--model", str(upscaler), "--out", str(tmp_path)]
    )
    main()
    path = next(tmp_path.glob("picture-x*.png"))
    assert "Upscale: " in Image.open(path).text["parameters"]
    stages.assert_refused(txt2img("--from-picture", path), "was enlarged by scripts/upscale.py")


def test_another_source_is_refused(txt2img, picture, tmp_path):
    _, _, (first,) = txt2img("--image", picture, "--strength", "0.5")
    Image.new("RGB", (32, 32)).save(picture)
    again = txt2img("--from-picture", first, out=tmp_path / "again")
    stages.assert_refused(again, str(first), "image was another")


def test_web_interfaces_read_how_it_was_drawn(txt2img):
    _, _, (path,) = txt2img("--prompt", "apple, red", "--negative", "blue", "--seed", "3", "--sampler", "ddim")
    lines = Image.open(path).text["parameters"].splitlines()
    recipe = json.loads(Image.open(path).text["ldm"])
    assert lines[:2] == ["apple, red", "Negative prompt: blue"]
    wanted = "Steps: 2, Sampler: DDIM, Schedule type: trailing, CFG scale: {:g}, Seed: 3, Size: 32x32, Model hash: {}, "
    assert lines[2].startswith(wanted.format(recipe["scale"], recipe["model"][:10])) and ", Version: ldm " in lines[2]


def not_ours(path):
    Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (not_ours, "does not say how it was drawn"),
        (lambda path: path.write_text("no picture"), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_other_files_are_refused(txt2img, tmp_path, make, words):
    make(tmp_path / "other.png")
    stages.assert_refused(txt2img("--from-picture", tmp_path / "other.png"), "other.png", words)


def test_a_damaged_recipe_is_one_line(txt2img, tmp_path):
    _, _, (path,) = txt2img("--prompt", "a red circle")
    with Image.open(path) as opened:
        opened.load()
        good = json.loads(opened.text["ldm"])
    damaged = [good | {"facts": {}}, good | {"command": []}, good | {"facts": {"model": 1, "model name": "x"}}]
    for name in ("prompt", "seed", "count", "steps", "sampler", "width"):
        damaged += [good | {"command": good["command"] | {name: value}} for value in ([1], {"a": 1}, True, "x" * 3)]
    for text in [*map(json.dumps, damaged), "[" * 100_000, "null", "3"]:
        extra = PngInfo()
        extra.add_text("ldm", text)
        opened.save(tmp_path / "bad.png", pnginfo=extra)
        code, lines, files = txt2img("--from-picture", tmp_path / "bad.png", out=tmp_path / "again")
        assert code == 0 or (code == 2 and len(lines) == 1 and lines[0].startswith("error: ")), (text[-300:], lines)


def test_pickles_are_allowed_by_the_user_and_not_by_a_picture(txt2img, tmp_path):
    _, _, (path,) = txt2img("--prompt", "a red circle")
    with_options(path, allow_pickle=True)
    assert "allow_pickle" not in redraw.remembered(path, stages.ROOT / "models")


def test_what_is_kept_is_kept_to_the_pixel(txt2img, picture, mask):
    _, _, (path,) = txt2img(*SQUARE, picture, "--mask", mask)
    kept = pixels(mask) == 0
    assert (pixels(path)[kept] == pixels(picture)[kept]).all()
    assert (pixels(path)[~kept] != pixels(picture)[~kept]).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("size", [(37, 50), (31, 90)])
def test_a_kept_picture_of_any_size_stays_as_large(txt2img, tmp_path, size):
    noise = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "odd.png")
    code, lines, (path,) = txt2img(*SQUARE, tmp_path / "odd.png", "--extend", "0,0,5,2")
    drawn = pixels(path)
    assert drawn.shape == (size[1] + 2, size[0] + 5, 3) and (drawn[:-2, :-5] == noise).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strength", "0.5"], ["--strength", "give --image"]),
        (["--image", "PICTURE", "--strength", "1.5"], ["strength", "1.5"]),
        (["--image", "PICTURE", "--strength", "0.5", "--steps", "1"], ["strength", "2 steps"]),
        (["--image", "PICTURE", "--feather", "3"], ["--feather", "--mask"]),
        (["--image", "PICTURE", "--vary", "0.5", "--strength", "0.5"], ["--vary"]),
        (["--image", "PICTURE", "--extend", "1,2,3"], ["--extend", "1,2,3", "LEFT,TOP,RIGHT,BOTTOM"]),
        (["--image", "PICTURE", "--extend=-1,0,0,0"], ["--extend", "-1,0,0,0"]),
        (["--image", "PICTURE", "--width", "33"], ["width", "33", "multiple of 8"]),
        (["--image", "PICTURE", "--mask", "BIG"], ["big.png", "64x64", "32x32"]),
        (["--image", "PICTURE", "--mask", "BLACK"], ["mask", "nothing to draw"]),
        (["--image", "PICTURE", "--mask", "CLEAR"], ["clear.png", "transparent"]),
        (["--image", "PICTURE", "--mask", "TEXT"], ["text.png", "cannot be read"]),
        (["--image", "TEXT"], ["text.png", "cannot be read"]),
        (["--image", "EMPTY"], ["empty.png", "cannot be read"]),
        (["--image", "HUGE", "--extend", "1,0,0,0"], ["huge.png", "3001x3000", "--width"]),
        (["--frames", "3"], ["--frames", "--to-prompt"]),
        (["--to-prompt", "a", "--frames", "1"], ["--frames", "at least 2"]),
        (["--to-seed", "-1"], ["--to-seed"]),
        (["--variation-strength", "0.5"], ["--variation-seed"]),
        (["--variation-seed", "1", "--variation-strength", "2"], ["share"]),
    ],
)
def test_impossible_picture_options(txt2img, picture, tmp_path, options, words):
    Image.new("L", (64, 64), 255).save(tmp_path / "big.png")
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    Image.new("RGBA", (32, 32)).save(tmp_path / "clear.png")
    Image.new("1", (3000, 3000)).save(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    known = {
        name.upper(): tmp_path / f"{name}.png" for name in ("picture", "big", "black", "clear", "huge", "text", "empty")
    }
    stages.assert_refused(txt2img(*(known.get(word, word) for word in options)), *words)
