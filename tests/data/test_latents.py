"""The latent cache: what it holds, when it is made again, and that nothing finished is lost."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ldm.core.distributed import World
from ldm.core.gaussian import Gaussian
from ldm.data import parts, shards
from ldm.data.caching import build
from ldm.data.folder import FolderSpec, ImageFolder, named_already
from ldm.data.latents import LatentCache
from ldm.data.parts import FolderParts
from ldm.data.shards import Encoders
from ldm.data.variety import Variety


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 4)


def make(root, sizes):
    root.mkdir()
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / f"{i:02}.png")
        (root / f"{i:02}.txt").write_text(f"picture {i}")
    return root


@pytest.fixture
def root(tmp_path):
    return make(tmp_path / "pictures", [(16, 16)] * 10)


class Counted:
    """Encoders that remember how many pictures they saw."""

    def __init__(self, key="a"):
        self.seen, self.key = 0, key

    def image(self, x):
        self.seen += len(x)
        mean = torch.nn.functional.avg_pool2d(x, 4)
        return Gaussian(mean, torch.full_like(mean, 1e-9))

    def text(self, captions):
        return {"tokens": torch.tensor([[float(len(caption)), 1.0] for caption in captions])}

    def encoders(self):
        return Encoders(self.image, self.text, (self.key,))


def cache(root, directory, counted=None, views=1, **spec):
    folder = ImageFolder(FolderSpec(path=str(root), **{"size": 16, **spec}))
    counted = counted or Counted()
    return LatentCache(folder, counted.encoders(), views=views, directory=directory, seed=0)


def test_items_are_moments_and_states_in_the_order_of_the_pictures(root, tmp_path, small_shards):
    found = cache(root, tmp_path / "cache")
    assert len(found) == 10 and found.pictures().tolist() == list(range(10)) and not found.mixed
    folder = ImageFolder(FolderSpec(path=str(root), size=16))
    for i in (0, 3, 4, 9, -1):
        expected = torch.nn.functional.avg_pool2d(folder[i].image[None], 4)[0]
        assert (found[i]["mean"] - expected).abs().max() < 1e-3
        assert found[i]["tokens"][0] == len("picture 0")
    assert torch.allclose(found[0]["var"], torch.tensor(1e-9), rtol=0.01, atol=0)  # 0 as a half
    with pytest.raises(IndexError):
        found[10]


def test_a_batch_is_the_items_stacked(root, tmp_path, small_shards):
    found = cache(root, tmp_path / "cache")
    batch = found.__getitems__([7, 2, 2])
    for name, rows in batch.items():
        assert torch.equal(rows, torch.stack([found[i][name] for i in (7, 2, 2)]))


def test_views_follow_each_other(root, tmp_path, small_shards):
    found = cache(root, tmp_path / "cache", views=3, variety=Variety(flip="swap"))
    assert found.pictures().tolist() == [i for i in range(10) for _ in range(3)]
    flipped = sum(torch.equal(found[3 * i]["mean"], found[3 * i + 1]["mean"].flip(-1)) for i in range(10))
    assert 1 <= flipped <= 9


def test_nothing_is_encoded_twice(root, tmp_path, small_shards):
    counted = Counted()
    for _ in range(2):
        cache(root, tmp_path / "cache", counted)
    assert counted.seen == 10


@pytest.mark.parametrize("change", ["encoders", "settings", "pictures"])
def test_a_stale_cache_is_not_used_and_said_so(root, tmp_path, small_shards, caplog, change):
    cache(root, tmp_path / "cache")
    counted, size = Counted("b" if change == "encoders" else "a"), 32 if change == "settings" else 16
    if change == "pictures":
        os.utime(root / "03.png", ns=(1, 1))
    cache(root, tmp_path / "cache", counted, size=size)
    assert counted.seen == 10
    (line,) = caplog.messages
    assert f"made for other {change}" in line and "another cache is made" in line


def test_a_killed_build_keeps_its_finished_shards(root, tmp_path, small_shards):
    class Killed(Counted):
        def image(self, x):
            if self.seen >= 8:
                raise KeyboardInterrupt
            return super().image(x)

    with pytest.raises(KeyboardInterrupt):
        cache(root, tmp_path / "cache", Killed())
    counted = Counted()
    assert len(cache(root, tmp_path / "cache", counted)) == 10 and counted.seen == 2


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_missing_or_cut_shard_is_made_again_alone(root, tmp_path, small_shards, caplog, harm):
    folder = cache(root, tmp_path / "cache").folder
    shard = folder / "shard-000001.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(shard).items()}
    if harm == "removed":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-10])
    counted = Counted()
    cache(root, tmp_path / "cache", counted)
    assert counted.seen == 4
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(shard).items())
    assert "1 shards are missing or damaged" in caplog.text


def test_numbers_that_are_not_finite_are_refused_when_made(root, tmp_path, small_shards):
    class Broken(Counted):
        def image(self, x):
            found = super().image(x)
            return Gaussian(found.mean * (torch.nan if self.seen == 8 else 1), found.var)

    with pytest.raises(ValueError, match="'mean' has values that are not finite in half precision"):
        cache(root, tmp_path / "cache", Broken())
    assert len(cache(root, tmp_path / "cache")) == 10


def test_numbers_that_are_not_finite_are_refused_when_read(root, tmp_path, small_shards):
    found = cache(root, tmp_path / "cache")
    path = found.folder / "shard-000000.safetensors"
    tensors = load_file(path)
    tensors["mean"][2] = torch.nan
    save_file(tensors, path, metadata={"format": shards.FORMAT, "left_out": "[]"})
    again = cache(root, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"'mean' has values that are not finite.*latents-.* made again"):
        again.__getitems__([0, 1, 2])


def test_damaged_pictures_are_left_out_and_named_once(tmp_path, small_shards, caplog):
    root = make(tmp_path / "pictures", [(16, 16)] * 100)
    (root / "17.png").write_text("<html>not found</html>")
    for _ in range(2):
        caplog.clear()
        named_already.clear()  # as in a process of its own
        found = cache(root, tmp_path / "cache")
        assert len(found) == 99 and 17 not in found.pictures()
        assert [bool(re.search(r"left out: .*17.png: the picture cannot be read", m)) for m in caplog.messages] == [
            True
        ]


def test_too_many_damaged_pictures_are_refused(root, tmp_path, small_shards):
    for name in ("03.png", "04.png"):
        (root / name).write_text("no picture")
    with pytest.raises(ValueError, match=r"03.png: the picture cannot be read.* 1 more.* too many of 10"):
        cache(root, tmp_path / "cache")


class SecondOfTwo(World):
    """A process whose fellow has seen that every shard is missing, and never comes."""

    def told(self, value):
        return [0, 1, 2], False

    def wait(self):
        pass


def test_processes_share_the_shards_on_a_disk_that_both_see(root, tmp_path, small_shards):
    counted, pieces = Counted(), FolderParts(ImageFolder(FolderSpec(path=str(root), size=16)), 1, 0)
    with pytest.raises(OSError, match="not seen by process 1; the cache must be on a disk that all share"):
        build(pieces, counted.encoders(), tmp_path / "cache", SecondOfTwo(1, 2), iter)
    assert counted.seen == 4  # shard 1 of 0, 1, 2
    cache(root, tmp_path / "cache", counted)
    assert counted.seen == 10


def test_buckets_give_shards_of_one_shape(tmp_path, small_shards):
    sizes = [(16, 16), (16, 32), (32, 16), (16, 30), (20, 20), (16, 16)]
    found = cache(make(tmp_path / "pictures", sizes), tmp_path / "cache", unit=4)
    assert found.mixed and sorted(found.pictures().tolist()) == list(range(6))
    for i, shape in enumerate(found.shapes()):
        same = [j for j, other in enumerate(found.shapes()) if other == shape]
        assert {found[j]["mean"].shape for j in same} == {found[i]["mean"].shape}


def test_memory_does_not_grow_with_what_is_read(tmp_path):
    def own_memory() -> int:
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
        return int(line.split()[1]) // 1024

    root = make(tmp_path / "pictures", [(8, 8)])
    found = cache(root, tmp_path / "cache", size=8)
    rows = 20_000
    path = found.folder / "shard-000000.safetensors"
    wide = {"mean": torch.zeros(rows, 4, 32, 32).half(), "logvar": torch.zeros(rows, 4, 32, 32).half()}
    wide |= {"tokens": torch.zeros(1, 2).half(), "caption": torch.zeros(rows).long(), "picture": torch.arange(rows)}
    save_file(wide, path, metadata={"format": shards.FORMAT, "left_out": "[]"})
    del wide
    index = json.loads((found.folder / "index.json").read_text())
    index |= {"rows": [rows], "bytes": [path.stat().st_size], "shape": [[4, 32, 32]]}
    (found.folder / "index.json").write_text(json.dumps(index))
    found = cache(root, tmp_path / "cache", size=8)
    found.__getitems__([0, 1])
    before = own_memory()
    for start in range(0, rows, 100):
        found.__getitems__(range(start, start + 100))
    assert own_memory() - before < 60  # MiB, of a file of 313
