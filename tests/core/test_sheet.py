"""Rows of pictures of several moments in one sheet."""

import numpy as np
import torch
from PIL import Image

from ldm.core.images import save_png
from ldm.core.moments import moment
from ldm.core.sheet import MARGIN, save_sheet


def test_rows_stand_below_each_other_with_names_and_heads(tmp_path):
    rows = []
    for step, value in ((0, -1.0), (5, 0.0), (9, 1.0)):
        save_png(torch.full((3, 20, 80), value), tmp_path / f"{step}.png")
        rows.append((moment(step, 9), tmp_path / f"{step}.png"))
    assert [name for name, _ in rows] == ["before", "step 5", "after"]
    save_sheet(rows, ["a long head of a column", ""], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    height = sheet.shape[0] - 60
    assert sheet.shape == (height + 60, MARGIN + 80, 3) and height > 8 + 15  # the head takes several lines
    assert [int(sheet[height + 20 * i + 10, MARGIN + 40, 0]) for i in range(3)] == [0, 128, 255]
    assert (sheet[:height] < 128).any() and (sheet[height:, :MARGIN] < 128).any()
    save_sheet(rows, ["", ""], tmp_path / "bare.png")
    assert np.asarray(Image.open(tmp_path / "bare.png")).shape[0] == 8 + 60
