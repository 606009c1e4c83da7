"""What stage 1 sees of its pictures."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autoencoder.config import AutoencoderConfig, AutoencoderDataSpec
from autoencoder.crop import train_view
from autoencoder.data import train_loader, val_loader
from autoencoder.model import AutoencoderSpec


def numbered(b, size):
    """Pictures whose three channels say which picture, row and column a pixel is."""
    image, row, column = torch.meshgrid(torch.arange(b), torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([image, row, column], 1).float()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 10**6))
def test_a_square_is_cut_out_of_every_picture(b, crop, seed):
    data = AutoencoderDataSpec(size=12, crop=crop)
    cut = train_view(numbered(b, 12), data, 0.0, seed)
    top, left = cut[:, 1, :1, :1], cut[:, 2, :1, :1]
    steps = torch.arange(crop).float()
    assert torch.equal(cut[:, 0], torch.arange(b).float()[:, None, None].expand(b, crop, crop))
    assert torch.equal(cut[:, 1], (top + steps[:, None]).expand(b, crop, crop))
    assert torch.equal(cut[:, 2], (left + steps).expand(b, crop, crop))
    assert torch.equal(cut, train_view(numbered(b, 12), data, 0.0, seed))


def test_squares_come_from_everywhere():
    data = AutoencoderDataSpec(size=6, crop=4)
    corners = {
        tuple(cut[1:, 0, 0].int().tolist()) for s in range(40) for cut in train_view(numbered(2, 6), data, 0.0, s)
    }
    assert corners == {(i, j) for i in range(3) for j in range(3)}


def test_the_last_steps_see_whole_pictures_and_as_many_pixels():
    data, images = AutoencoderDataSpec(size=8, crop=4, whole=0.25), numbered(8, 8)
    assert train_view(images, data, 0.74, 0).shape == (8, 3, 4, 4)
    assert torch.equal(train_view(images, data, 0.75, 0), images[:2])
    assert torch.equal(train_view(images, AutoencoderDataSpec(size=8), 0.0, 0), images)


def test_impossible_squares_are_refused():
    with pytest.raises(ValueError, match="crop: 200 is outside 1 to 128"):
        AutoencoderDataSpec(crop=200)
    with pytest.raises(ValueError, match=r"whole: 1.5 is outside \[0, 1\]"):
        AutoencoderDataSpec(whole=1.5)
    with pytest.raises(ValueError, match="data.crop: 60 is not divisible by 8"):
        AutoencoderConfig(model=AutoencoderSpec(), data=AutoencoderDataSpec(crop=60))


def drawn(folder, count=4):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGBA", (16, 16), (60 * i, 0, 0, 0)).save(folder / f"{i}.png")
    return folder


def reading(root, *, val=None):
    data = AutoencoderDataSpec(train=str(root), val=(str(val or root),), size=16, batch=4)
    return AutoencoderConfig(model=AutoencoderSpec(mult=(1,), patch=2), data=data)


def test_pictures_need_no_captions(tmp_path):
    config = reading(drawn(tmp_path))
    (tmp_path / "1.txt").write_text("only one has a caption")
    assert sorted(next(iter(train_loader(config, 0))).index.tolist()) == [0, 1, 2, 3]
    assert [batch.image.shape for batch in val_loader(config)] == [(4, 3, 16, 16)]


def test_names_in_metadata_give_grounds_of_many_colours(tmp_path):
    rows = [{"file_name": f"{i}.png", "caption": "x", "name": "dot", "style": "flat"} for i in range(4)]
    (drawn(tmp_path) / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    batches = iter(train_loader(reading(tmp_path), 0))
    grounds = {tuple(image[:, 0, 0].tolist()) for _ in range(10) for image in next(batches).image}
    assert len(grounds) > 2


def test_a_folder_of_data_sets_is_none(tmp_path):
    (drawn(tmp_path / "train") / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"no metadata of its own, but train/ has; give path .*train$"):
        train_loader(reading(tmp_path), 0)
