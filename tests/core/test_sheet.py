"""Rows of pictures of several moments in one sheet."""

import numpy as np
import torch
from PIL import Image, ImageFont

from ldm.core.images import save_png
from ldm.core.moments import moment
from ldm.core.sheet import MARGIN, save_sheet, wrapped


def test_rows_stand_below_each_other_with_names_and_heads(tmp_path):
    rows = []
    for step, value in ((0, -1.0), (5, 0.0), (9, 1.0)):
        save_png(torch.full((3, 20, 80), value), tmp_path / f"{step}.png")
        rows.append((moment(step, 9), tmp_path / f"{step}.png"))
    assert [name for name, _ in rows] == ["before", "step 5", "after"]
    save_sheet(rows, ["a long head of a column", ""], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    height = sheet.shape[0] - 180  # pictures of 40 pixels are enlarged three times, for a column of 96 or more
    assert sheet.shape == (height + 180, MARGIN + 240, 3) and height > 8 + 15  # the head takes several lines
    assert [int(sheet[height + 60 * i + 30, MARGIN + 120, 0]) for i in range(3)] == [0, 128, 255]
    assert (sheet[:height] < 128).any() and (sheet[height:, :MARGIN] < 128).any()
    save_sheet(rows, ["", ""], tmp_path / "bare.png")
    assert np.asarray(Image.open(tmp_path / "bare.png")).shape[0] == 8 + 180


def test_large_pictures_stay_and_long_words_are_broken():
    font = ImageFont.load_default(12)
    lines = wrapped("purple/red/blue/green/yellow/orange, big", 96, font).splitlines()
    assert "".join(lines).replace(" ", "") == "purple/red/blue/green/yellow/orange,big"
    assert all(font.getlength(line) <= 96 for line in lines) and len(lines) >= 3
