"""Parquet files and tar shards: the same pictures and captions as a folder's, every fault named."""

import io
import json
import re
import sys
import tarfile
from functools import lru_cache

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from autoencoder.config import AutoencoderConfig, AutoencoderDataSpec
from autoencoder.data import train_loader
from ldm.core.gaussian import Gaussian
from ldm.data import parquet
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.latents import LatentCache
from ldm.data.shards import Encoders
from ldm.data.tar import expand
from ldm.evaluation.encoded import read_pictures


def png(shade):
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), shade, dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def write_parquet(path, captions, **columns):
    images = [{"bytes": png(10 * i), "path": None} for i in range(len(captions))]
    table = pyarrow.table({"image": images, "text": captions, **columns})
    pyarrow.parquet.write_table(table, path, row_group_size=3)


def write_tar(path, samples):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in samples:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def pairs(count, first=0):
    return [
        file
        for i in range(first, first + count)
        for file in ((f"{i:04}.png", png(10 * i)), (f"{i:04}.txt", f"number {i}".encode()))
    ]


def open_folder(path, **options):
    return ImageFolder(FolderSpec(path=str(path), size=16, **options))


def shades(folder):
    return [round((float(folder[i].image.mean()) + 1) * 12.75) for i in range(len(folder))]


def test_parquet_as_it_is_published(tmp_path):
    (tmp_path / "data").mkdir()
    write_parquet(
        tmp_path / "data" / "train-00000-of-00001.parquet", [f"caption {i}" for i in range(7)], label=list(range(7))
    )
    folder = open_folder(tmp_path)
    assert shades(folder) == list(range(7))
    assert [folder[i].caption for i in range(7)] == [f"caption {i}" for i in range(7)]
    assert [record.label for record in folder.records] == list(range(7))
    assert shades(open_folder(tmp_path / "data" / "train-00000-of-00001.parquet")) == list(range(7))


def test_training_reads_a_group_of_rows_about_once_an_epoch(tmp_path, monkeypatch):
    for part in range(4):
        write_parquet(tmp_path / f"{part}.parquet", ["x"] * 24)
    config = AutoencoderConfig(data=AutoencoderDataSpec(train=str(tmp_path), val=(), size=16, batch=8))
    folder = train_loader(config, 0).dataset
    assert folder.groups == [3] * 32
    read, group = [], parquet._group.__wrapped__
    counted = lru_cache(parquet._group.cache_info().maxsize)(lambda *where: read.append(where) or group(*where))
    monkeypatch.setattr(parquet, "_group", counted)
    for steps_done in (0, 12):  # the second epoch too, by a run that goes on
        read.clear()
        shown = [batch.index for batch, _ in zip(train_loader(config, steps_done), range(12), strict=False)]
        assert sorted(torch.cat(shown).tolist()) == list(range(96))
        assert len(read) <= 40  # of 32 groups; in an order of its own nearly every picture would read one


def test_faults_of_parquet_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, [*["x"] * 10, None, *["x"] * 10])
    folder = open_folder(path)
    assert len(folder) == 20 and folder.faults == [f"{path} row 10 has no caption; fill the column caption (or text)"]
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match="a.parquet: cannot be read as Parquet"):
        open_folder(path)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"]}), path)
    with pytest.raises(ValueError, match="0 columns of pictures among text; one is needed: image"):
        open_folder(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", ["x"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow.types", None)
    with pytest.raises(ValueError, match="Parquet files need pyarrow; install it: pip install"):
        open_folder(tmp_path / "a.parquet")


def test_tar_shards_are_read_in_any_order(tmp_path):
    write_tar(tmp_path / "0.tar", pairs(3))
    write_tar(tmp_path / "1.tar", pairs(2, 3))
    for path in (tmp_path, tmp_path / "{0..1}.tar"):
        folder = open_folder(path)
        assert shades(folder) == list(range(5))
        assert folder[4].caption == "number 4" and folder[1].caption == "number 1"


@pytest.mark.parametrize("path", ["rows", "rows/a.parquet", "shards", "shards/{0..1}.tar"])
def test_pictures_to_measure_may_lie_in_containers(tmp_path, path):
    (tmp_path / "rows").mkdir()
    write_parquet(tmp_path / "rows" / "a.parquet", [f"number {i}" for i in range(5)])
    write_tar(tmp_path / "shards" / "0.tar", pairs(3))
    write_tar(tmp_path / "shards" / "1.tar", pairs(2, 3))
    (tmp_path / "alone.png").write_bytes(png(200))
    found = read_pictures([tmp_path / path, tmp_path / "alone.png"], 16)
    assert [round((float(image.mean()) + 1) * 127.5) for image in found.images] == [0, 10, 20, 30, 40, 200]
    assert found.captions == (*(f"number {i}" for i in range(5)), "")
    assert len(set(found.names)) == 6  # each says where in its file it is


def test_tar_samples_with_json_and_labels(tmp_path):
    row = json.dumps({"caption": "a dot", "name": "dot", "style": "flat"}).encode()
    write_tar(tmp_path / "a.tar", [("x/1.json", row), ("x/1.jpg", png(0)), ("x/1.cls", b"7"), ("x/1.npy", b"?")])
    (record,) = open_folder(tmp_path / "a.tar").records
    assert record.label == 7 and record.columns["name"] == "dot" and record.columns["caption"] == "a dot"


def test_faults_of_tars_are_named(tmp_path):
    lone = [("z.txt", b"no picture"), ("y.png", png(0)), ("w.png", png(0)), ("w.txt", b"\xff")]
    path = tmp_path / "a.tar"
    write_tar(path, [*pairs(25), *lone[:2]])
    folder = open_folder(path)
    assert len(folder) == 25
    assert folder.faults == [
        f"{path} z: a caption without its picture",
        f"{path} y has no caption; fill the column caption (or text)",
    ]
    write_tar(path, [*pairs(25), *lone[2:]])
    assert re.search("w: its text cannot be read", open_folder(path).faults[0])
    path.write_bytes(path.read_bytes()[:-12_000])
    assert "breaks off" in open_folder(path).faults[-1]
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match="not a plain tar"):
        open_folder(path)
    with pytest.raises(ValueError, match="1.tar: no such file"):
        open_folder(tmp_path / "{1..2}.tar")


def test_ranges_multiply():
    assert expand("a{08..10}b{1..2}") == ["a08b1", "a08b2", "a09b1", "a09b2", "a10b1", "a10b2"]
    assert expand("plain.tar") == ["plain.tar"]


def piped(command, directory, views=1):
    encoders = Encoders(
        lambda x: Gaussian(x.mean((2, 3), keepdim=True), torch.ones(len(x), 3, 1, 1)),
        lambda captions: {"tokens": torch.tensor([[float(c.split()[1])] for c in captions])},
        ("a",),
    )
    return LatentCache(FolderSpec(path=command, size=16), encoders, views=views, directory=directory, seed=0)


def test_pipes_are_read_once_into_the_cache(tmp_path):
    write_tar(tmp_path / "0.tar", pairs(3))
    write_tar(tmp_path / "1.tar", pairs(2, 3))
    for _ in range(2):  # the second time there is nothing left to read
        found = piped(f"pipe:cat {tmp_path}/{{0..1}}.tar", tmp_path / "cache")
        assert len(found) == 5 and [int(found[i]["tokens"]) for i in range(5)] == list(range(5))
        assert [round((float(found[i]["mean"].mean()) + 1) * 12.75) for i in range(5)] == list(range(5))
        (tmp_path / "0.tar").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pipe:cat {}/gone.tar 2>/dev/null", "no whole tar came out of it"),
        ("pipe:head -c 3000 {}/0.tar", "no whole tar came out of it"),
        ("pipe:cat {}/0.tar; exit 3", "ended with exit code 3"),
    ],
)
def test_a_pipe_that_fails_is_named(tmp_path, command, message):
    write_tar(tmp_path / "0.tar", pairs(3))
    with pytest.raises(ValueError, match=message):
        piped(command.format(tmp_path), tmp_path / "cache")


def test_a_pipe_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match="a pipe is read once, in order, into the cache"):
        open_folder("pipe:cat x.tar")
