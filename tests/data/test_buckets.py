"""Buckets: nothing distorted, little cropped, and every picture as often as the others."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldm.core.distributed import World
from ldm.data.buckets import BucketOrder, bucket_sizes, kept_share, nearest
from ldm.data.folder import FolderSpec, ImageFolder, decode
from ldm.data.position import Shared

units = st.sampled_from([8, 16, 32, 64])


@given(unit=units, times=st.integers(2, 16))
def test_sizes_are_multiples_of_the_unit_within_the_area(unit, times):
    size = unit * times
    found = bucket_sizes(size, unit)
    assert (size, size) in found and len(set(found)) == len(found)
    for height, width in found:
        assert height % unit == width % unit == 0
        assert height * width <= size * size and max(height, width) <= 2 * min(height, width)
        assert (width, height) in found
        assert height * (width + unit) > size * size or height > width  # the long side could not be longer


@given(unit=units, times=st.integers(4, 16), height=st.integers(100, 4000), width=st.integers(100, 4000))
def test_no_other_bucket_keeps_more_of_a_picture(unit, times, height, width):
    sizes = bucket_sizes(unit * times, unit)
    best = kept_share((height, width), sizes[nearest((height, width), sizes)])
    assert all(kept_share((height, width), size) <= best for size in sizes)
    if max(height, width) <= 2 * min(height, width):
        assert best >= times / (times + 1) * 0.85  # of the order of one unit is cropped


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (37, 53), (64, 64), (90, 50)])
def test_pictures_are_scaled_alike_in_both_directions(tmp_path, shape):
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 2, columns * 2, rows * 0], -1).astype(np.uint8)  # brightness tells the place
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    folder = ImageFolder(FolderSpec(path=str(tmp_path), size=64, unit=8))
    bucket = folder.spec.sizes[int(folder.buckets[0])]
    found = folder.pixels(0)[8:-8, 8:-8].astype(float)
    down, across = np.diff(found[..., 0], axis=0).mean(), np.diff(found[..., 1], axis=1).mean()
    scale = max(bucket[0] / height, bucket[1] / width)
    assert folder.pixels(0).shape[:2] == bucket
    assert down == pytest.approx(2 / scale, rel=0.03) and across == pytest.approx(2 / scale, rel=0.03)


def test_turned_phone_pictures_go_to_their_upright_bucket(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (96, 64)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("x")
    folder = ImageFolder(FolderSpec(path=str(tmp_path), size=64, unit=16))
    height, width = folder.pixels(0).shape[:2]
    assert height > width and decode(tmp_path / "a.jpg", (32, 32), "a").shape[:2] == (32, 32)


counts = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(counts=counts, batch=st.integers(1, 12), seed=st.integers(0, 2**40))
def test_every_picture_is_shown_once_before_any_of_its_bucket_is_shown_again(counts, batch, seed):
    buckets = [name for name, count in enumerate(counts) for _ in range(count)]
    order = BucketOrder(buckets, seed, batch=batch)
    epochs = 3
    steps = sum(order.ends(epochs - 1))
    shown = {name: [] for name in range(len(counts))}
    for indices in map(order.indices, range(steps)):
        (name,) = {buckets[i] for i in indices}  # of one shape
        assert len(indices) == batch
        shown[name] += indices
    for name, count in enumerate(counts):
        whole = len(shown[name]) // count
        assert epochs * count - len(shown[name]) < batch  # what is left over is less than a batch
        for epoch in range(whole):
            assert Counter(shown[name][epoch * count : (epoch + 1) * count]) == Counter(
                i for i, bucket in enumerate(buckets) if bucket == name
            )


@given(counts=counts, start=st.integers(0, 50), world=st.sampled_from([1, 2, 3]))
def test_resuming_and_sharing_change_nothing(counts, start, world):
    buckets = [name for name, count in enumerate(counts) for _ in range(count)]
    order = BucketOrder(buckets, 1, batch=6)
    whole = [order.indices(step) for step in range(start + 5)][start:]
    parts = [islice(Shared(BucketOrder(buckets, 1, batch=6), start, World(r, world)), 5) for r in range(world)]
    for expected, *shares in zip(whole, *parts, strict=True):
        assert [i for row in zip(*shares, strict=True) for i in row] == expected


def test_refuses_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="size: 100 is not a multiple of 16"):
        bucket_sizes(100, 16)
    with pytest.raises(ValueError, match="batch: 0 is below 1"):
        BucketOrder([0], 0, batch=0)
    with pytest.raises(ValueError, match="no pictures"):
        BucketOrder([], 0, batch=5)
