"""Folders as people have them: every layout read, every fault named with its file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ldm.data.folder import FolderSpec, ImageFolder, decode
from ldm.data.position import Draw, DrawSampler, ResumableSampler


def picture(path, colour=(255, 0, 0), size=(16, 16), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def metadata(root, *rows):
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def open_folder(root, **options):
    return ImageFolder(FolderSpec(path=str(root), size=16, **options))


def read_pixels(path, size):
    return decode(path, (size, size), path.name)


def test_metadata_jsonl(tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "b.jpg", (0, 0, 255))
    metadata(tmp_path, {"file_name": "in/a.png", "caption": "a red square"}, {"file_name": "b.jpg", "text": " blue "})
    folder = open_folder(tmp_path)
    assert len(folder) == 2 and folder.classes == []
    assert [folder[i].caption for i in range(2)] == ["a red square", "blue"]
    assert [(folder[i].index, folder[i].label) for i in range(2)] == [(0, -1), (1, -1)]
    assert torch.equal(folder[0].image, torch.tensor([1.0, -1, -1]).view(3, 1, 1).expand(3, 16, 16))


def test_metadata_csv_with_byte_order_mark_and_quotes(tmp_path):
    picture(tmp_path / "a.png")
    text = 'file_name,caption,label\na.png,"red, and ""square""",7\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8-sig")
    sample = open_folder(tmp_path)[0]
    assert sample.caption == 'red, and "square"' and sample.label == 7


def test_text_files_beside_pictures(tmp_path):
    picture(tmp_path / "sub" / "a.PNG", format="PNG")
    (tmp_path / "sub" / "a.txt").write_text("caf\u00e9\n", encoding="utf-8")
    assert open_folder(tmp_path)[0].caption == "caf\u00e9"


def test_class_folders_are_captions_and_labels(tmp_path):
    picture(tmp_path / "golden_retriever" / "x.png")
    picture(tmp_path / "cat" / "deep" / "y.png")
    picture(tmp_path / ".cache" / "z.png")
    folder = open_folder(tmp_path)
    assert folder.classes == ["cat", "golden_retriever"]
    found = [(sample.caption, sample.label) for sample in (folder[0], folder[1])]
    assert found == [("cat", 0), ("golden retriever", 1)]


def test_links_to_folders_are_followed_and_none_is_read_twice(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    picture(root / "cat" / "a.png")
    picture(elsewhere / "deep" / "b.png")
    (root / "dog").symlink_to(elsewhere)
    (root / "animal").symlink_to(root / "cat")  # there already
    (elsewhere / "deep" / "up").symlink_to(root)  # a loop
    (root / "circle").symlink_to(root / "circle")
    (root / "gone").symlink_to(tmp_path / "gone")
    found = [(sample.caption, sample.label) for sample in open_folder(root)]
    assert found == [("cat", 0), ("dog", 1)]


def test_no_captions_when_asked(tmp_path):
    picture(tmp_path / "a.png")
    assert open_folder(tmp_path, captions="none")[0].caption == ""


def test_alpha_lies_on_white(tmp_path):
    picture(tmp_path / "a.png", (0, 0, 0, 0), mode="RGBA")
    metadata(tmp_path, {"file_name": "a.png", "caption": "nothing"})
    assert torch.equal(open_folder(tmp_path)[0].image, torch.ones(3, 16, 16))


def test_rows_with_names_and_styles_vary_with_the_seed_only(tmp_path):
    picture(tmp_path / "a.png", (0, 0, 0, 0), mode="RGBA")
    row = {"file_name": "a.png", "caption": "dot, flat", "name": "dot", "style": "flat", "concept": "dot"}
    metadata(tmp_path, row)
    folder = open_folder(tmp_path)
    assert folder[0].caption == "dot, flat" and (folder[0].image == 1).all() and folder.classes == ["dot"]
    drawn = [folder[Draw(0, seed)] for seed in range(60)]
    assert len({sample.caption for sample in drawn}) > 5
    assert len({sample.image[:, 0, 0].numpy().tobytes() for sample in drawn}) > 3
    again = folder[Draw(0, 3)]
    assert again.caption == drawn[3].caption and torch.equal(again.image, drawn[3].image)


def test_a_loader_collates_samples(tmp_path):
    for name in "abc":
        picture(tmp_path / name / "x.png")
    folder = open_folder(tmp_path)
    batch = next(iter(DataLoader(folder, 3, sampler=DrawSampler(ResumableSampler(3, 0)))))
    assert batch.image.shape == (3, 3, 16, 16)
    assert [folder.classes[label] for label in batch.label] == list(batch.caption)


def test_other_sizes_are_resized_and_cropped_in_the_middle(tmp_path):
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:64] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    pixels = read_pixels(tmp_path / "a.png", 16)
    assert pixels.shape == (16, 16, 3) and (abs(pixels[:, 2:-2].astype(int) - 200) <= 1).all()


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert abs(read_pixels(tmp_path / "a.png", 16).astype(int) - 127).max() < 16


def test_hidden_colour_of_transparent_parts_does_not_bleed(tmp_path):
    rgba = np.zeros((32, 32, 4), dtype=np.uint8)
    rgba[..., 1] = 255  # green, invisible
    rgba[:, 16:] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = read_pixels(tmp_path / "a.png", 16)
    assert pixels[..., 1][pixels[..., 3] > 8].max() <= 2


def test_phone_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    half = Image.new("RGB", (16, 16))
    half.paste((255, 255, 255), (0, 0, 8, 16))
    half.save(tmp_path / "a.png", exif=exif)
    pixels = read_pixels(tmp_path / "a.png", 16)
    assert pixels[:8].min() == 255 and pixels[8:].max() == 0


def test_sixteen_bit_grey_is_scaled(tmp_path):
    Image.fromarray(np.full((16, 16), 0x8000, dtype=np.uint16)).save(tmp_path / "a.png")
    assert (read_pixels(tmp_path / "a.png", 16) == 128).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb_or_rgba(tmp_path, mode):
    suffix = ".tiff" if mode == "CMYK" else ".png"
    Image.new(mode, (20, 16)).save(tmp_path / f"a{suffix}")
    assert read_pixels(tmp_path / f"a{suffix}", 16).shape == (16, 16, 4 if mode.endswith("A") else 3)


def faulty(root, case):
    """Write one faulty data set, and return what the error must say."""
    picture(root / "a.png")
    match case:
        case "missing file":
            metadata(root, {"file_name": "a.png", "caption": "x"}, {"file_name": "gone.png", "caption": "x"})
            return r"metadata.jsonl:2: gone.png does not exist"
        case "no caption in row":
            metadata(root, {"file_name": "a.png", "caption": " "})
            return r"metadata.jsonl:1: a.png has no caption"
        case "no file name":
            metadata(root, {"caption": "x"})
            return r"metadata.jsonl:1: no file_name"
        case "duplicated":
            metadata(root, {"file_name": "a.png", "caption": "x"}, {"file_name": "./a.png", "caption": "y"})
            return r"metadata.jsonl:2: ./a.png is named again \(first on line 1\)"
        case "not json":
            (root / "metadata.jsonl").write_text("{'file_name'}")
            return r"metadata.jsonl:1: not JSON"
        case "not an object":
            (root / "metadata.jsonl").write_text("[1]")
            return r"metadata.jsonl:1: expected an object"
        case "both kinds":
            (root / "metadata.jsonl").write_text("{}")
            (root / "metadata.csv").write_text("")
            return "holds both metadata.jsonl and metadata.csv"
        case "missing text":
            picture(root / "b.png")
            (root / "a.txt").write_text("x")
            return r"b.png: no caption; b.txt is missing"
        case "empty text":
            (root / "a.txt").write_text("\n")
            return r"a.png: no caption; a.txt is empty"
        case "no captions at all":
            return "no captions found"
        case "outside the class folders":
            picture(root / "cat" / "b.png")
            return "no captions found"
        case "empty metadata":
            metadata(root)
            return "no pictures found"
        case "split below":
            (root / "train").mkdir()
            metadata(root / "train", {"file_name": "a.png", "caption": "x"})
            return r"but train/ has; give path .*train"
    raise AssertionError(case)


CASES = (
    "missing file", "no caption in row", "no file name", "duplicated", "not json", "not an object", "both kinds",
    "missing text", "empty text", "no captions at all", "outside the class folders", "empty metadata", "split below",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_faults_are_named(tmp_path, case):
    message = faulty(tmp_path, case)
    with pytest.raises(ValueError, match=message) as error:
        open_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no pictures found"):
        open_folder(tmp_path)


def test_damaged_pictures_are_named_and_listed(tmp_path):
    for name in ("good", "cut", "fake", "extra"):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    (tmp_path / "fake.png").write_text("<html>not found</html>")
    metadata(tmp_path, *({"file_name": f"{name}.png", "caption": name} for name in ("good", "cut", "fake")))
    folder = open_folder(tmp_path)
    assert folder[0].caption == "good"
    for index, name in ((1, "cut"), (2, "fake")):
        with pytest.raises(ValueError, match=rf"{name}.png: the picture cannot be read"):
            folder[index]
    problems = list(folder.problems())
    assert [line.split(":")[0].rsplit("/")[-1] for line in problems] == ["cut.png", "fake.png", "extra.png"]


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_size_out_of_range(size):
    with pytest.raises(ValueError, match=f"size: {size} is outside 8 to 4096"):
        FolderSpec(path="x", size=size)


def many(root, faulty=1, count=20):
    for i in range(count):
        picture(root / f"{i:02}.png", (i, 0, 0))
        if i >= faulty:
            (root / f"{i:02}.txt").write_text(f"number {i}")
    return root


def test_a_few_faults_are_reported_and_trained_around(tmp_path):
    many(tmp_path)
    (tmp_path / "lone.txt").write_text("x")
    folder = open_folder(tmp_path)
    assert len(folder) == 19
    assert folder.faults == [
        f"{tmp_path}/00.png: no caption; 00.txt is missing beside it",
        f"{tmp_path}/lone.txt: a caption without its picture",
    ]


def test_a_note_beside_a_few_pictures_is_no_reason_to_stop(tmp_path):
    many(tmp_path, faulty=0, count=2)
    (tmp_path / "LICENSE.txt").write_text("x")
    assert len(open_folder(tmp_path)) == 2


def test_pictures_that_metadata_does_not_name_are_reported(tmp_path, monkeypatch):
    many(tmp_path, faulty=20, count=2)
    metadata(tmp_path, {"file_name": "00.png", "caption": "x"})
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path, "."):
        folder = open_folder(root)
        assert len(folder) == 1 and [line.rpartition("/")[2] for line in folder.faults] == [
            "01.png: not named in the metadata"
        ]


def test_a_damaged_picture_is_named_once_in_training_and_the_next_one_shown(tmp_path, caplog):
    many(tmp_path, faulty=0)
    (tmp_path / "19.png").write_text("no picture")
    folder = open_folder(tmp_path)
    loader = DataLoader(folder, 10, sampler=DrawSampler(ResumableSampler(20, 0)), num_workers=2)
    batches = [batch for batch, _ in zip(loader, range(6), strict=False)]
    shown = torch.cat([batch.index for batch in batches]).tolist()
    assert shown.count(19) == 0 and shown.count(0) == 6  # three epochs, and thrice in the place of 19
    again = [folder[Draw(19, 0)].index for _ in range(2)]
    assert again == [0, 0] and len(caplog.messages) <= 1  # one of the workers may have named it


@pytest.mark.parametrize("name", ["a b", "line\nbreak", "caf\u00e9", "\u732b", "\u0645\u0631\u062d\u0628\u0627", "a.b"])
def test_names_and_captions_in_any_script(tmp_path, name):
    picture(tmp_path / f"{name}.png")
    (tmp_path / f"{name}.txt").write_text(f"{name}!", encoding="utf-8")
    folder = open_folder(tmp_path)
    assert folder[0].caption == f"{name}!" and "\n" not in folder.records[0].name


def test_no_file_is_opened_before_it_is_asked_for(tmp_path, monkeypatch):
    many(tmp_path, faulty=0)
    monkeypatch.setattr(Image, "open", None)
    assert len(open_folder(tmp_path)) == 20
