"""Pixels and PNG files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.core.images import grid, save_png, to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_survives_the_round_trip():
    x = to_float(LEVELS.reshape(1, 1, 16, 16))
    assert x.min() == -1 and x.max() == 1
    assert torch.equal(to_uint8(x).flatten(), LEVELS)


def test_values_outside_the_range_are_clipped():
    assert to_uint8(torch.tensor([-7.0, 7.0]).reshape(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_a_png_holds_the_pixels_and_the_recipe(tmp_path):
    pixels = LEVELS.reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    pixels[:, 1] = pixels[:, 1].flip(-1)
    recipe = {"prompt": "a caf\u00e9, \u05e9\u05dc\u05d5\u05dd", "seed": 2**62, "scale": 7.5}
    save_png(to_float(pixels)[0], tmp_path / "a.png", recipe)
    with Image.open(tmp_path / "a.png") as picture:
        assert json.loads(picture.info["ldm"]) == recipe
        assert np.array_equal(np.asarray(picture), pixels[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_is_refused(bad, tmp_path):
    image = torch.zeros(3, 4, 4)
    image[1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"a\.png: .*not finite"):
        save_png(image, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_grid_puts_every_picture_in_its_place():
    images = -torch.arange(1, 6).reshape(5, 1, 1, 1).expand(5, 3, 4, 6) / 8.0
    sheet = grid(images, columns=2, padding=1)
    assert sheet.shape == (3, 3 * 5 + 1, 2 * 7 + 1)
    assert torch.equal(sheet[:, 11:15, 1:7], images[4])
    assert (sheet[:, 11:15, 8:14] == 1).all()  # no sixth picture
