"""The whole preparation, on small packages written here: what it writes, and how it fails."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.emoji import packages, prepare, report, styles
from ldm.data.folder import FolderSpec, ImageFolder

ROOT = Path(__file__).parents[2]
COUNT = 60
CORRUPT, COPY = "thing-3", "thing-5"


def tarball(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def square(i):
    return f'<path fill="rgb({i},99,0)" d="M4 4h24v{8 + i % 20}H4z"/>'


def webp(i):
    stream = io.BytesIO()
    Image.new("RGBA", (48, 48), (i, 0, 200, 255)).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Four small packages in a cache, pinned as the real ones are."""
    cache = tmp_path / "cache"
    entries = [
        {
            "label": f"thing {i}",
            "group": 3 if i < 5 else 7,
            "subgroup": 1,
            "hexcode": f"{4096 + i:X}",
            "emoji": chr(4096 + i),
        }
        for i in range(COUNT)
    ]
    icons = {f"thing-{i}": {"body": square(i)} for i in range(COUNT)}
    icons[CORRUPT] = {"body": "<path d='M0"}
    icons[COPY] = icons["thing-4"]
    chars = {f"{4096 + i:x}": f"thing-{i}" for i in range(COUNT)}
    contents = {
        "EMOJIBASE": {"en/data.json": [*entries, {"label": "flag: X", "group": 9, "hexcode": "1F1FD", "emoji": "x"}]},
        "EMOJILIB": {"dist/emoji-en-US.json": {chr(4096): ["gadget", ":)"]}},
        "NOTO": {"icons.json": {"width": 32, "height": 32, "icons": icons}, "chars.json": chars},
        "FLUENT_3D": {f"assets/{4096 + i:x}-fe0f.webp": webp(i) for i in range(COUNT - 10)},
    }
    for name, members in contents.items():
        package = getattr(packages, name)
        tarball(cache / package.filename, members)
        pinned = replace(package, sha256=hashlib.sha256((cache / package.filename).read_bytes()).hexdigest())
        monkeypatch.setattr(packages, name, pinned)
    small = {"noto": ("NOTO", "noto clip art", "iconify"), "fluent-3d": ("FLUENT_3D", "soft 3d render", "webp")}
    for key, (name, words, layout) in small.items():
        monkeypatch.setitem(
            styles.STYLES, key, styles.Style(package=getattr(packages, name), words=words, layout=layout)
        )
    groups = ["animals", "objects"]
    return {"out": tmp_path / "out", "cache": cache, "styles": ["noto", "fluent-3d"], "groups": groups} | {
        "size": 32,
        "seed": 0,
    }


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writes_a_folder_that_imagefolder_reads(world):
    summary = prepare.prepare(**world)
    splits = {name: ImageFolder(FolderSpec(path=str(world["out"] / name), size=32)) for name in ("train",)}
    train = splits["train"]
    assert sum(summary.images.values()) == (COUNT - 2) + (COUNT - 10)
    assert len(train) == sum(n for (_, name), n in summary.images.items() if name == "train")
    assert not list(train.problems())
    row = next(record for record in train.records if record.columns["style"] == "noto")
    assert row.columns["caption"] == f"{row.columns['name']}, noto clip art"
    assert {"concept", "name", "keywords", "style", "group"} <= set(row.columns)
    assert train.pixels(0).shape == (32, 32, 4)


def test_what_is_left_out_is_counted_and_named(world):
    summary = prepare.prepare(**world)
    assert len(summary.corrupt) == 1 and summary.corrupt[0].startswith(f"noto/{CORRUPT}: the SVG does not render")
    assert summary.repeated == {"noto": 1} and summary.absent["fluent-3d"] == 10
    assert summary.dropped == {"flag": 1} and summary.concepts == COUNT
    text = report.table(summary)
    assert CORRUPT in text and "1 flag" in text and f"concepts: {COUNT}" in text


def test_same_seed_same_bytes_and_another_seed_same_pictures(world):
    prepare.prepare(**world)
    first = contents(world["out"])
    prepare.prepare(**world)
    assert contents(world["out"]) == first
    prepare.prepare(**{**world, "seed": 1})
    other = contents(world["out"])

    def pictures(files):
        return sorted((name.split("/", 1)[1], data) for name, data in files.items() if name.endswith(".png"))

    assert pictures(other) == pictures(first) and other != first


def test_fewer_groups_hold_out_the_same_pictures(world):
    prepare.prepare(**world)
    whole = contents(world["out"])
    summary = prepare.prepare(**{**world, "groups": ["objects"]})
    part = contents(world["out"])
    pictures = {name for name in part if name.endswith(".png")}
    assert pictures == {n for n in whole if n.endswith(".png") and int(n.rsplit("-", 1)[1][:-4]) >= 5}
    assert summary.concepts == COUNT - 5
    with pytest.raises(ValueError, match="groups: plants; choose from smileys"):
        prepare.prepare(**{**world, "groups": ["plants"]})


def test_svg_pixels_are_where_they_should_be(world):
    prepare.prepare(**{**world, "styles": ["noto"]})
    pixels = np.array(Image.open(next(world["out"].rglob("noto/thing-10.png"))))
    assert tuple(pixels[10, 16]) == (10, 99, 0, 255) and pixels[1, 1, 3] == 0


def test_credits_name_every_author_and_licence(world):
    prepare.prepare(**world)
    text = (world["out"] / "CREDITS.md").read_text()
    for package in (packages.NOTO, packages.FLUENT_3D, packages.EMOJIBASE, packages.EMOJILIB):
        assert package.art in text and package.licence in text


def test_wrong_hash_names_file_expected_and_found(world):
    path = world["cache"] / packages.NOTO.filename
    path.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(ValueError, match=rf"{path}: sha256 expected {packages.NOTO.sha256}, found {found}"):
        prepare.prepare(**{**world, "styles": ["fluent-3d", "noto"]})
    assert not world["out"].exists() and not list(world["out"].parent.glob("*.partial"))


def test_a_failed_run_leaves_the_older_data(world):
    prepare.prepare(**world)
    before = contents(world["out"])
    (world["cache"] / packages.NOTO.filename).write_bytes(b"")
    with pytest.raises(ValueError, match="sha256"):
        prepare.prepare(**world)
    assert contents(world["out"]) == before


def test_npm_missing_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"npm is not installed.*install Node.js, or put emojilib-4.0.3.tgz into"):
        packages.fetch(packages.EMOJILIB, tmp_path / "cache")


def test_npm_failure_is_passed_on(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error 404 gone' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ValueError, match=r"npm pack emojilib@4.0.3 failed \(code E404, 404 gone\)"):
        packages.fetch(packages.EMOJILIB, tmp_path / "cache")


def test_a_folder_of_someone_else_is_not_replaced(world):
    world["out"].mkdir()
    (world["out"] / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="was not written by this script"):
        prepare.prepare(**world)
    assert (world["out"] / "thesis.txt").read_text() == "precious"


def test_out_that_cannot_be_written(world, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out: cannot write"):
        prepare.prepare(**{**world, "out": tmp_path / "file" / "out"})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"size": 4}, "size: 4 is outside 8 to 1024"),
        ({"styles": ["notto"]}, "styles: 'notto' is unknown; choose from noto, "),
        ({"styles": ["noto", "noto"]}, "'noto' is given more than once"),
        ({"styles": []}, "styles: none given"),
    ],
)
def test_options_are_checked_first(world, option, message):
    with pytest.raises(ValueError, match=message):
        prepare.prepare(**{**world, **option})


def test_script_reports_in_one_line_with_exit_code_2(tmp_path):
    command = [sys.executable, "scripts/prepare_emoji.py", "--out", str(tmp_path / "x"), "--styles", "crayon"]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: styles: 'crayon' is unknown") and done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = "import runpy, sys; sys.argv = ['prepare_emoji', '--help']\n"
    code += "try: runpy.run_path('scripts/prepare_emoji.py', run_name='__main__')\n"
    code += "except SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_missing_renderer_is_said_once(world, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="resvg_py, which renders SVG, is not installed"):
        prepare.prepare(**world)


def test_full_disk_is_one_line_and_leaves_nothing(world, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ValueError, match="png: No space left on device"):
        prepare.prepare(**world)
    assert not list(world["out"].parent.glob("out*"))
