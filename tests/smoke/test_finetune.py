"""Fine-tuning as a user does it: every method by its command, its result drawn from, and what is refused."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import stages
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ldm.core import command
from ldm.core.bundle import load_bundle, save_bundle
from ldm.inference.adapters import add_words
from ldm.model_folder import AUTOENCODER, LDM, load_model
from ldm.nets.lora import read_tensors

QUICK = ("optim.steps=4", "optim.warmup=0", "optim.lr=0.01", "validate_every=4", "save_every=2", "data.batch=4")
SCRIPT = importlib.util.spec_from_file_location("finetune_script", stages.ROOT / "scripts/finetune.py")


@pytest.fixture
def finetune(shapes, model_folder, tmp_path, monkeypatch, capsys):
    """Run the script in this process; exit code, lines of stderr and of stdout."""
    script = importlib.util.module_from_spec(SCRIPT)
    SCRIPT.loader.exec_module(script)
    monkeypatch.chdir(stages.ROOT)

    def call(*options, changes=(), data=shapes / "train", out=tmp_path / "run"):
        fixed = ["--model", model_folder, "--data", data, "--out", out]
        given = [*QUICK, f"data.cache={tmp_path}/cache", "precision=32-true", *changes]
        monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, [*fixed, *options]), *stages._set(given)])
        code = 0
        try:
            command.run(script.main)
        except SystemExit as stop:
            code = stop.code
        found = capsys.readouterr()
        return code, found.err.splitlines(), found.out.splitlines()

    return call


def pixels(drawn) -> list:
    code, _, files = drawn
    assert code == 0
    return [Image.open(path).tobytes() for path in files]


@pytest.mark.slow
def test_a_lora_changes_what_its_word_names_and_can_be_merged(finetune, txt2img, model_folder, tmp_path):
    prior = (
        "data.encode=along",
        "prior.pictures=4",
        "prior.steps=1",
        'prompts=["a red circle, {token}", "a red circle"]',
    )
    code, err, out = finetune("--token", "scribble", changes=prior)
    assert code == 0, err
    run = tmp_path / "run"
    assert out[0].startswith(f"{run}: from the start, 4 steps, ") and out[2].startswith("first step done ")
    assert out[1].startswith("step 1/4: ") and "loss" in out[1] and Path(out[-1]).name == "lora.safetensors"
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["00000000.png", "00000004.png"]
    assert Image.open(run / "samples.png").size[1] > 2 * 32  # a row for each moment
    assert len(list(run.glob("step-*.ckpt"))) == 2 and len(list((run / "prior").glob("*.png"))) == 4
    _, header = read_tensors(out[-1])
    assert json.loads(header["words"]) == ["scribble"] and header["model"] == load_bundle(model_folder / LDM).sha256

    plain = pixels(txt2img("--prompt", "a red circle", out=tmp_path / "1"))
    lora = ("--prompt", "a red circle", "--lora")
    assert pixels(txt2img(*lora, f"{out[-1]}:0", out=tmp_path / "2")) == plain
    changed = pixels(txt2img(*lora, out[-1], out=tmp_path / "3"))
    assert changed != plain
    stacked = pixels(txt2img(*lora, f"{out[-1]}:0.5", "--lora", f"{out[-1]}:0.5", out=tmp_path / "4"))
    assert torch.tensor([abs(a - b) for a, b in zip(stacked[0], changed[0], strict=True)]).max() <= 1
    code, lines, files = txt2img(*lora, out[-1], out=tmp_path / "5")
    assert "has none of its words: scribble" in lines[0]
    assert json.loads(Image.open(files[0]).text["ldm"])["loras"] == [f"{out[-1]}:1"]

    from ldm.inference.lora_command import merge_or_convert

    merged = merge_or_convert(model_folder, [out[-1]], "model", tmp_path / "merged")
    close = pixels(txt2img("--prompt", "a red circle", model=merged, out=tmp_path / "6"))[0]
    assert torch.tensor([abs(a - b) for a, b in zip(close, changed[0], strict=True)]).float().mean() < 3  # bfloat16
    stages.assert_refused(txt2img(*lora, out[-1], model=merged, out=tmp_path / "7"), "made for the model")


@pytest.mark.slow
def test_a_learned_word_draws_and_leaves_all_else_as_it_was(finetune, txt2img, model_folder, tmp_path):
    code, err, out = finetune("--method", "textual-inversion", "--token", "<scribble>")
    assert code == 0, err
    assert {name: tuple(t.shape) for name, t in load_file(out[-1]).items()} == {"<scribble>": (4, 384)}
    plain = pixels(txt2img("--prompt", "a circle", out=tmp_path / "1"))
    word = ("--embedding", out[-1], "--prompt")
    assert pixels(txt2img(*word, "a circle", out=tmp_path / "2")) == plain
    named = pixels(txt2img(*word, "a circle, <scribble>", out=tmp_path / "3"))
    assert named != pixels(txt2img("--prompt", "a circle, <scribble>", out=tmp_path / "4"))
    stages.assert_refused(txt2img(*word, "a", *word[:2], out=tmp_path / "5"), "<scribble> is given twice")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dreambooth", "full"])
def test_all_weights_are_learned_into_a_model_folder(method, finetune, txt2img, model_folder, shapes, tmp_path):
    pictures = tmp_path / "pictures"  # without captions, for DreamBooth
    shutil.copytree(shapes / "train", pictures)
    if method == "dreambooth":
        (pictures / "metadata.jsonl").unlink()
    prior = ("prior.pictures=3", "prior.steps=1") if method == "dreambooth" else ()
    code, err, out = finetune("--method", method, "--subject", "circle", data=pictures, changes=prior)
    assert code == 0, err
    assert pixels(txt2img("--prompt", "a sks circle", model=Path(out[-1])))
    assert load_model(out[-1]).sha256 != load_model(model_folder).sha256
    rows = (tmp_path / "run/prior/metadata.jsonl").read_text() if method == "dreambooth" else "a circle"
    assert "a circle" in rows and "sks" not in rows


@pytest.mark.slow
def test_a_model_of_pixels_is_trained_drawn_with_and_fine_tuned(finetune, txt2img, shapes, tmp_path):
    pixels = ("net.in_channels=3", "net.out_channels=3", "optim.steps=2", "validate_every=2", "precision=32-true")
    options = stages.ldm_options(shapes, '""', tmp_path / "ldm", *pixels)
    folder = stages.finish(stages.start("train_ldm", *options)).splitlines()[-1]
    assert not (Path(folder) / AUTOENCODER).exists() and load_model(folder).config.codec.path == ""
    prompt = ("--prompt", "a red circle")
    code, _, files = txt2img(*prompt, model=folder, out=tmp_path / "before")
    assert code == 0 and Image.open(files[0]).size == (32, 32)
    code, err, out = finetune("--method", "full", "--model", folder)
    assert code == 0, err
    assert txt2img(*prompt, model=out[-1], out=tmp_path / "after")[0] == 0


def test_what_cannot_be_is_refused_in_one_line(finetune, model_folder, shapes, tmp_path):
    empty, bare = tmp_path / "empty", tmp_path / "bare"
    empty.mkdir()
    bare.mkdir()
    shutil.copy(shapes / "train/00.png", bare)
    words = ("--method", "textual-inversion", "--token")
    cases = [
        (finetune(data=empty), "no pictures found"),
        (finetune(data=bare), "no captions found"),
        (finetune(data=tmp_path / "none"), "no such folder"),
        (finetune(changes=("learn.rnak=3",)), "config.learn.rnak: unknown key; did you mean 'rank'?"),
        (finetune(changes=("learn.rank=0",)), "rank: 0 is below 1"),
        (finetune(changes=('data.caption="{capton}"',)), "{capton} is unknown"),
        (finetune(*words[:2]), "token: textual inversion learns a word, and none is given"),
        (finetune(*words, "circle"), "'circle' is already a word of this text encoder"),
        (finetune(*words, "my cat"), "is to be one word"),
        (finetune("--stage", "autoencoder", changes=("data.cache=null",)), "config.data.cache: unknown key"),
        (finetune("--stage", "autoencoder", "--token", "x"), "--token: the autoencoder reads no captions"),
        (finetune("--stage", "autoencoder", *words[:2]), "--method: the methods are ways to fine-tune stage 2"),
        (finetune(changes=("logger=wandb",), out=tmp_path / "w"), "needs the package wandb"),
    ]
    for (code, err, _), message in cases:
        assert code == 2 and err[-1].startswith("error: ") and message in err[-1], (message, err)
    assert finetune("--method", "hypernetwork")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("encode", ["ahead", "along"])
def test_pictures_keep_their_shape_and_vary(encode, finetune, shapes, tmp_path, caplog):
    wide = shutil.copytree(shapes / "train", tmp_path / "wide")
    for path in sorted(wide.glob("*.png"))[::2]:
        Image.open(path).resize((96, 32)).save(path)
    (wide / "23.png").write_text("no picture")
    varied = ("data.buckets=true", "data.views=2", "data.flip=swap", "data.shuffle_tags=true", f"data.encode={encode}")
    code, err, _ = finetune(data=wide, changes=varied)
    assert code == 0, err
    assert sum("23.png" in line for line in caplog.messages) == 1
    assert finetune(data=wide, changes=varied)[0] == 0
    code, err, _ = finetune("--token", "scribble", data=wide, changes=(*varied, "prior.pictures=4"))
    assert code == 2 and "data.buckets: the prior's pictures are squares" in err[-1]


def test_a_folder_holds_one_run(finetune, tmp_path, model_folder):
    (tmp_path / "run").mkdir()
    recipe = (stages.ROOT / "configs/smoke/finetune.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(recipe)
    (tmp_path / "run/last.ckpt").touch()  # it has begun
    code, err, _ = finetune()
    assert code == 2 and "holds a run with model 'runs/smoke/ldm/model', and now it is" in err[-1]


@pytest.mark.slow
def test_a_run_knows_its_model_by_what_it_is_and_not_by_where_it_lies(finetune, shapes, model_folder, tmp_path):
    def resumed(model, steps, cache="cache"):
        more = (f"optim.steps={steps}", f"data.cache={tmp_path}/{cache}", f"model={model}")
        return finetune(changes=more)

    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    shutil.copytree(model_folder, here)
    assert resumed(here, 4)[0] == 0
    here.rename(there)
    code, err, _ = resumed(there, 6, "another-cache")
    assert code == 0, err
    assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["global_step"] == 6
    bundle = load_bundle(there / LDM)
    weights = {name: weight + 0.01 for name, weight in bundle.weights.items()}
    shutil.copytree(there, other)
    save_bundle(other / LDM, bundle.config, weights, **bundle.meta)
    code, err, _ = resumed(other, 8)
    assert code == 2 and "holds a run with another model" in err[-1]


@pytest.mark.slow
def test_a_run_knows_its_data_by_what_they_are_and_not_by_where_they_lie(finetune, shapes, tmp_path):
    def trained(data, steps, out, held_out):
        more = (f"optim.steps={steps}", "optim.decay=0", f"data.val={held_out}", "data.encode=along")
        return finetune(changes=more, data=data, out=tmp_path / out)

    here, there, other = (tmp_path / name for name in ("here", "elsewhere/there", "other"))
    shutil.copytree(shapes, here)
    for out, steps in (("whole", 4), ("parts", 2)):
        assert trained(here / "train", steps, out, here / "val")[0] == 0
    there.parent.mkdir()
    here.rename(there)
    code, err, _ = trained(there / "train", 4, "parts", there / "val")
    assert code == 0, err
    ours, theirs = (torch.load(tmp_path / f"{out}/last.ckpt", weights_only=True) for out in ("parts", "whole"))
    assert ours["global_step"] == theirs["global_step"] == 4
    assert all(torch.equal(ours["state_dict"][name], weight) for name, weight in theirs["state_dict"].items())
    ours, theirs = (load_file(tmp_path / out / "lora.safetensors") for out in ("parts", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], weight) for name, weight in theirs.items())

    shutil.copytree(there, other)
    shutil.copy(other / "train/01.png", other / "train/00.png")
    for data, held_out, what in (
        (other / "train", there / "val", "another data;"),
        (there / "train", other / "train", "another data.val;"),
    ):
        code, err, _ = trained(data, 6, "parts", held_out)
        assert code == 2 and err[-1].startswith("error: --out: ") and f"holds a run with {what}" in err[-1], err


def test_files_that_are_no_lora_and_no_word_are_refused(txt2img, model_folder, tmp_path):
    junk, tensors = tmp_path / "junk.safetensors", tmp_path / "t.safetensors"
    junk.write_bytes(b"junk")
    save_file({"weight": torch.zeros(2, 3, 4)}, tensors)
    stages.assert_refused(txt2img("--lora", junk), "not a safetensors file")
    stages.assert_refused(txt2img("--lora", tensors), "no LoRA in a layout that is known")
    stages.assert_refused(txt2img("--lora", f"{tensors}:much"), "'much'", "is no number")
    stages.assert_refused(txt2img("--lora", tmp_path / "none.safetensors"), "no such file")
    stages.assert_refused(txt2img("--embedding", tensors), "the file of a word holds one")
    save_file({"<x>": torch.zeros(2, 7)}, tensors)
    stages.assert_refused(txt2img("--embedding", tensors), "learned with another text encoder")
    model = load_model(model_folder)
    save_file({"<x>": torch.randn(2, 384)}, tensors)
    assert add_words(model, [tensors]) == ["<x>"]
    assert model.text.cut("a <x> " + "very " * 20 + "long <x>").endswith("long <x>")
