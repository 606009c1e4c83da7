"""A cache for an upscaler also holds what it reads of small pictures; a limit takes pictures from all of a folder."""

import pytest
import torch
from PIL import Image

from ldm.core.gaussian import Gaussian
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.latents import LatentCache
from ldm.data.shards import Encoders


@pytest.fixture
def greys(tmp_path):
    """Ten pictures, each of one grey, in order."""
    folder = tmp_path / "greys"
    folder.mkdir()
    for i in range(10):
        Image.new("L", (16, 16), 25 * i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a grey")
    return folder


def encoders(low=None) -> Encoders:
    def text(captions):
        return {"tokens": torch.zeros(len(captions), 1, 2)}

    return Encoders(lambda image: Gaussian(image[..., ::4, ::4], image[..., ::4, ::4] ** 2), text, ("test",), low)


def test_every_item_has_its_own_small_versions(greys, tmp_path):
    def versions(image):
        return torch.stack([image[..., ::4, ::4], -image[..., ::4, ::4]], dim=1)

    folder = ImageFolder(FolderSpec(path=str(greys), size=16))
    cache = LatentCache(folder, encoders(versions), views=1, directory=tmp_path / "cache", seed=0)
    batch = cache.__getitems__([7, 2])
    assert batch["low"].shape == (2, 2, 3, 4, 4) and batch["low"].dtype == torch.float32
    torch.testing.assert_close(batch["low"][:, 0], batch["mean"])
    torch.testing.assert_close(batch["low"][:, 1], -batch["mean"])


def test_without_an_upscaler_there_are_none(greys, tmp_path):
    folder = ImageFolder(FolderSpec(path=str(greys), size=16))
    cache = LatentCache(folder, encoders(), views=1, directory=tmp_path / "cache", seed=0)
    assert set(cache[0]) == {"mean", "var", "picture", "tokens"}


@pytest.mark.parametrize(("limit", "taken"), [(None, 10), (12, 10), (10, 10), (4, 4), (1, 1)])
def test_a_limit_takes_pictures_evenly(greys, limit, taken):
    folder = ImageFolder(FolderSpec(path=str(greys), size=16, limit=limit))
    shades = [round((float(folder[i].image.mean()) + 1) * 127.5) for i in range(len(folder))]
    assert shades == [25 * (i * 10 // taken) for i in range(taken)]


def test_a_limit_of_nothing_is_refused(greys):
    with pytest.raises(ValueError, match="limit: 0"):
        FolderSpec(path=str(greys), limit=0)
