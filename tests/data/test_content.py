"""What a data set is: its pictures and their rows in order, and nothing of where and when they were written."""

import json
import os
import shutil
import tarfile

import pytest
from PIL import Image

from ldm.data.content import content_of
from ldm.data.folder import FolderSpec, read_listing


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(root / f"{i}.png")
    write(root, ["a", "b", "c"])
    return root


def write(root, captions, order=(0, 1, 2)):
    rows = [json.dumps({"file_name": f"{i}.png", "caption": captions[i]}) for i in order]
    (root / "metadata.jsonl").write_text("\n".join(rows))


def content(path):
    return content_of(read_listing(FolderSpec(path=str(path))))


def test_a_place_and_a_time_are_no_content(pictures, tmp_path):
    before = content(pictures)
    moved = tmp_path / "far/away"
    shutil.copytree(pictures, moved)
    os.utime(moved / "0.png", (0, 0))
    assert content(moved) == before


def test_a_picture_a_caption_and_the_order_are(pictures):
    found = [content(pictures)]
    write(pictures, ["a", "b", "x"])
    found.append(content(pictures))
    write(pictures, ["a", "b", "c"], order=(0, 2, 1))
    found.append(content(pictures))
    write(pictures, ["a", "b", "c"])
    shutil.copy(pictures / "0.png", pictures / "1.png")
    found.append(content(pictures))
    (pictures / "1.png").write_bytes(b"junk")
    found.append(content(pictures))
    assert len(set(found)) == 5


def test_pictures_within_a_file_are_told_apart(pictures, tmp_path):
    found = []
    for kept in ([0, 1], [0, 2]):
        path = tmp_path / f"{len(found)}.tar"
        with tarfile.open(path, "w") as tar:
            for place, i in enumerate(kept):
                text = tmp_path / "caption.txt"
                text.write_text("a square")
                tar.add(pictures / f"{i}.png", f"{place}.png")
                tar.add(text, f"{place}.txt")
        found.append(content(path))
    shutil.move(tmp_path / "0.tar", tmp_path / "moved.tar")
    assert found[0] != found[1] and content(tmp_path / "moved.tar") == found[0]


def test_of_many_pictures_most_are_known_by_their_size(pictures):
    def found():
        return content_of(read_listing(FolderSpec(path=str(pictures))), read=2)  # 0 and 2

    before, whole = found(), (pictures / "1.png").read_bytes()
    for file, data, seen in (
        ("1.png", whole[:-1] + b"x", False),
        ("1.png", whole + b"x", True),
        ("2.png", whole, True),
    ):
        kept = (pictures / file).read_bytes()
        (pictures / file).write_bytes(data)
        assert (found() != before) is seen
        (pictures / file).write_bytes(kept)
    assert found() == before
