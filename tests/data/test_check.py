"""The look before training: every fault named once, duplicates found, the sheet drawn."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from ldm.data.check import check, contact_sheet
from ldm.data.duplicates import MOST_BITS, SIDE, look_of, near_duplicates
from ldm.data.folder import FolderSpec

ROOT = Path(__file__).parents[2]


def blobs(seed, size=(48, 64)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size[::-1], Image.Resampling.BICUBIC)


def messy(root):
    """Twenty good pictures, some with names as people have them, and one of each fault."""
    root.mkdir()
    names = ["a b", "line\nbreak", "caf\u00e9", "\u732b", "\u0442\u0435\u0441\u0442", "\u0645\u0631\u062d\u0628\u0627"]
    for i in range(20):
        name = names[i] if i < len(names) else f"p{i}"
        blobs(i).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"{name.split()[0]} number {i}", encoding="utf-8")
    blobs(7).resize((128, 96)).save(root / "copy.jpg", quality=80)
    (root / "copy.txt").write_text("again")
    (root / "broken.png").write_bytes((root / "p9.png").read_bytes()[:700])
    (root / "broken.txt").write_text("broken")
    (root / "lone.txt").write_text("no picture")
    blobs(50).save(root / "mute.png")
    blobs(51).save(root / "odd\nname.png")
    return root


def test_every_fault_is_named_once_and_copies_are_found(tmp_path):
    root = messy(tmp_path / "my pictures")
    findings = check(FolderSpec(path=str(root), size=64), unit=16)
    assert len(findings.seen) == 21
    lines = list(findings.lines())
    assert all("\n" not in line for line in lines)
    for name, fault in {
        "broken.png": "the picture cannot be read",
        "lone.txt": "a caption without its picture",
        "mute.png": "no caption; mute.txt is missing beside it",
        "odd\\nname.png": "no caption; odd\\nname.txt is missing beside it",
    }.items():
        assert [line for line in lines if line.startswith("cannot be used") and name in line and fault in line], name
    assert sum(line.startswith("cannot be used") for line in lines) == 4
    assert [line for line in lines if "the same" in line] == [f"(almost) the same: {root}/copy.jpg = {root}/p7.png"]
    assert "  80 x 48 (1.67): 21" in lines  # 64 x 48 keeps 80 % there, 75 % in a square


def test_the_contact_sheet_shows_the_pictures(tmp_path):
    findings = check(FolderSpec(path=str(messy(tmp_path / "x")), size=64), unit=16)
    contact_sheet(findings, tmp_path / "out" / "sheet.png")
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert np.asarray(sheet).std() > 20


def test_a_sheet_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    findings = check(FolderSpec(path=str(messy(tmp_path / "x")), size=64), unit=16)
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"the one before")

    def full(image, file, *options):
        (file.write if hasattr(file, "write") else file.write_bytes)(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        contact_sheet(findings, sheet)
    assert sheet.read_bytes() == b"the one before"


def test_captions_are_reported_as_they_are(tmp_path):
    for i in range(2):
        blobs(i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("a//b/./c\nd")
    lines = list(check(FolderSpec(path=str(tmp_path), size=64), unit=16).lines())
    assert "  2 pictures: a//b/./c\\nd" in lines


def test_the_script_reports_and_refuses_in_one_line(tmp_path):
    def run(*options, sheet="s.png"):
        command = [sys.executable, "scripts/check_data.py", *map(str, options), "--sheet", str(tmp_path / sheet)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(messy(tmp_path / "x"), "--size", 64, "--unit", 16)
    assert done.returncode == 0 and "21 pictures can be used, 4 things cannot" in done.stdout, done.stderr
    done = run(tmp_path / "x", "--size", 64, "--unit", 16, sheet="x/p9.png/s.png")  # the report is not lost with it
    assert done.returncode == 2 and "21 pictures can be used" in done.stdout and len(done.stderr.splitlines()) == 1
    (tmp_path / "empty").mkdir()
    for options, message in (
        ([tmp_path / "empty"], "no pictures found"),
        ([tmp_path / "gone"], "no such folder"),
        ([tmp_path / "x", "--size", 100], "size: 100 is not a multiple of 64"),
    ):
        done = run(*options)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def pixels(picture):
    return np.asarray(picture)


@given(st.integers(0, 500))
def test_scaling_recompression_and_light_change_little(seed):
    picture, file = blobs(seed), io.BytesIO()
    picture.save(file, "jpeg", quality=75)
    others = [picture.resize((128, 96)), Image.open(file), ImageEnhance.Brightness(picture).enhance(0.97)]
    for other in others:
        assert near_duplicates([look_of(pixels(picture)), look_of(pixels(other))]) == [[0, 1]]


def drawing(seed, size=128):
    """A few flat shapes on a flat ground, as icons are."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        left, top = (int(x) for x in rng.integers(0, size // 2, 2))
        width, height = (int(x) for x in rng.integers(size // 8, size // 2, 2))
        pen.ellipse((left, top, left + width, top + height), fill=tuple(int(c) for c in rng.integers(0, 255, 3)))
    return picture


@pytest.mark.parametrize(("kind", "quality", "size"), [("jpeg", 60, 128), ("webp", 80, 128), ("jpeg", 85, 96)])
@given(st.integers(0, 200))
def test_flat_grounds_hold_no_noise_that_counts(kind, quality, size, seed):
    file = io.BytesIO()
    drawing(seed).resize((size, size), Image.Resampling.LANCZOS).save(file, kind, quality=quality)
    again = Image.open(file).convert("RGB")
    assert near_duplicates([look_of(pixels(drawing(seed))), look_of(pixels(again))]) == [[0, 1]]
    assert near_duplicates([look_of(pixels(drawing(seed))), look_of(pixels(drawing(seed + 1000)))]) == []


@given(st.integers(0, 200), st.integers(201, 400))
def test_other_pictures_are_others(one, other):
    assert near_duplicates([look_of(pixels(blobs(one))), look_of(pixels(blobs(other)))]) == []


@given(bits=st.integers(0, MOST_BITS + 3), seed=st.integers(0, 99))
def test_bands_find_all_pairs_within_the_distance(bits, seed):
    rng = np.random.default_rng(seed)
    tiny = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    one = rng.random(SIDE * SIDE) < 0.5
    other = one.copy()
    other[rng.choice(SIDE * SIDE, bits, replace=False)] ^= True
    assert near_duplicates([(one, tiny), (other, tiny)]) == ([[0, 1]] if bits <= MOST_BITS else [])


def test_plain_pictures_of_one_colour_are_compared_by_it():
    plain = [np.full((8, 8, 3), shade, dtype=np.uint8) for shade in (0, 100, 101, 200)]
    assert near_duplicates([look_of(picture) for picture in plain]) == [[1, 2]]


@pytest.mark.parametrize("unit", [7, 48])
def test_a_unit_that_does_not_fit_is_refused(tmp_path, unit):
    with pytest.raises(ValueError, match=f"size: 64 is not a multiple of {unit}"):
        check(FolderSpec(path=str(tmp_path), size=64), unit)
