"""What txt2img makes of bad input: one line on stderr, exit code 2, nothing half written; odd prompts are drawn."""

import errno
import shutil
from pathlib import Path

import pytest
import stages
import torch
from safetensors.torch import save_file

from ldm.core import bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_missing_folder(txt2img, tmp_path):
    stages.assert_refused(txt2img(model=tmp_path / "nowhere"), str(tmp_path / "nowhere"), "no such model folder")


@pytest.mark.parametrize("name", ["ldm.safetensors", "autoencoder.safetensors"])
def test_missing_file(txt2img, copy, name):
    (copy / name).unlink()
    stages.assert_refused(txt2img(model=copy), str(copy / name), "no such file")


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_file(txt2img, copy, kept):
    path = copy / "ldm.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    stages.assert_refused(txt2img(model=copy), str(path))


def test_foreign_safetensors(txt2img, copy):
    save_file({"weight": torch.zeros(2)}, copy / "ldm.safetensors")
    stages.assert_refused(txt2img(model=copy), "ldm.safetensors", "not a bundle of this project")


def test_bundle_of_the_other_stage(txt2img, copy):
    shutil.copy(copy / "autoencoder.safetensors", copy / "ldm.safetensors")
    stages.assert_refused(txt2img(model=copy), "ldm.safetensors", "not a model of this version")


def test_pickle_is_refused_and_not_opened(txt2img, copy, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save(Trap(), copy / "ldm.safetensors")
    stages.assert_refused(txt2img(model=copy), "ldm.safetensors", "pickled")
    assert not (tmp_path / "sprung").exists()


def test_autoencoder_of_another_model(txt2img, copy):
    held = bundle.load_bundle(copy / "autoencoder.safetensors")
    other = {name: weight * 2 for name, weight in held.weights.items()}
    bundle.save_bundle(copy / "autoencoder.safetensors", held.config, other, **held.meta)
    stages.assert_refused(
        txt2img(model=copy), "autoencoder.safetensors", "its latents are not those that ldm.safetensors was trained on"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], ["steps", "1..1000"]),
        (["--steps", "1001"], ["steps", "1..1000"]),
        (["--width", "33"], ["width", "33", "multiple of 8"]),
        (["--height", "0"], ["height", "0"]),
        (["--width", "-32"], ["width", "-32"]),
        (["--scale", "-1"], ["scale", "negative"]),
        (["--scale", "nan"], ["scale", "nan"]),
        (["--scale", "inf"], ["scale", "inf"]),
        (["--sampler", "ddin"], ["sampler", "did you mean 'ddim'"]),
        (["--spacing", "random"], ["spacing", "trailing"]),
        (["--device", "toaster"], ["--device", "toaster", "cpu"]),
        (["--device", "cpu:x"], ["--device", "cpu:x"]),
        (["--count", "0"], ["--count"]),
        (["--seed", "-1"], ["--seed"]),
        (["--batch", "0"], ["batch"]),
        (["--turbo"], ["--turbo, --model", "give one"]),
        (["--classifier-scale", "2"], ["--classifier-scale", "give --classifier"]),
        (["--label", "red"], ["--classifier", "--label", "give both"]),
        (["--classifier", "none.safetensors", "--label", "red"], ["none.safetensors", "no such file"]),
    ],
)
def test_impossible_option(txt2img, options, words):
    stages.assert_refused(txt2img(*options), *words)


def test_out_below_a_file(txt2img, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    stages.assert_refused(txt2img(out=tmp_path / "file" / "drawn"), str(tmp_path / "file"))


def test_full_disk_leaves_nothing(txt2img, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle.os, "fsync", full)
    stages.assert_refused(txt2img(), "No space left on device")


@pytest.mark.parametrize("prompt", ["", "   ", "\U0001f34e \U0001f680", "تفاحة حمراء", "a\nb\tc", "../../etc/passwd"])
def test_odd_prompt_is_drawn(txt2img, prompt):
    code, lines, files = txt2img("--prompt", prompt)
    assert (code, len(files)) == (0, 1)
    assert lines == ["4 network evaluations for each picture"]  # 2 steps, guided
    assert files[0].suffix == ".png"


def test_long_prompt_is_drawn_and_says_what_was_not_read(txt2img):
    code, lines, files = txt2img("--prompt", "apple " * 10_000)
    assert (code, len(lines), len(files)) == (0, 2, 1)
    assert lines[0].startswith("warning: the prompt is too long") and len(lines[0]) < 300


def test_prompt_that_is_not_unicode(txt2img):
    stages.assert_refused(txt2img("--prompt", "a \udc80 b"), "not valid Unicode")
