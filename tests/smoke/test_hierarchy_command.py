"""`scripts/train_hierarchy.py` trains hierarchies of any depth, says their bounds by term, and draws from them."""

import re
import runpy
import sys

import numpy as np
import pytest
import stages
from PIL import Image

from ldm.core import command


@pytest.fixture
def train(shapes, tmp_path, monkeypatch, capsys):
    def call(*options):
        script = runpy.run_path(str(stages.ROOT / "scripts/train_hierarchy.py"))
        folders = ["--data", shapes / "train", "--held-out", shapes / "train", "--out", tmp_path / "out" / "sheet.png"]
        monkeypatch.setattr(sys, "argv", ["train_hierarchy.py", *map(str, [*folders, "--side", "8", *options])])
        code = 0
        try:
            command.run(script["main"])
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err.splitlines()

    return call


def bounds(printed, what):
    return [float(x) for x in re.findall(rf"{what} \(bits/dim\) *\| *(-?[\d.]+)", printed)]


def test_training_lowers_the_bound_of_every_depth_and_terms_add_up(train, tmp_path):
    few = ("--dims", "6", "6,3", "--width", "16", "--batch", "16")
    code, before, _ = train(*few, "--steps", "1")
    assert code == 0
    code, after, _ = train(*few, "--steps", "300", "--lr", "0.01")
    assert code == 0
    for early, late in zip(bounds(before, "total"), bounds(after, "total"), strict=True):
        assert late < early - 0.5
        assert 0 < late < 8  # bits of a value that has 256: a code that is worse than none has not learned
    parts = [bounds(after, what) for what in ("recon", "between levels", "prior")]
    assert [sum(column) for column in zip(*parts, strict=True)] == pytest.approx(bounds(after, "total"), abs=2e-4)
    assert parts[1][0] == 0 != parts[1][1]  # one level has nothing between levels
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheet.png"))
    assert sheet.shape == (2 * (8 * 8 + 2) + 2, 32 * (8 * 8 + 2) + 2, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dims", "0,3"), "latent_dims"),
        (("--steps", "0"), "--steps"),
        (("--lr", "nan"), "--lr"),
        (("--lr", "1e30"), "--lr"),
        (("--seed", "9" * 30), "--seed"),
        (("--width", "100000000000"), "--width"),
        (("--out", "."), "--out"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_one_line(train, options, words):
    code, _, lines = train("--steps", "20", *options)
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], lines
