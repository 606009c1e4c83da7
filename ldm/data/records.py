"""Find pictures and their captions on disk, in any of the layouts that people have.

Nothing is decoded here. What is wrong with single pictures is collected, one line each, and these are left out; only a
data set that is mostly wrong is refused.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from ldm.data.record import LAYOUTS, MOST_FAULTS, Fault, Listing, Record, caption_of, check_share, class_numbers, shown

CaptionSource = Literal["auto", "metadata", "text", "folders", "none"]
METADATA = ("metadata.jsonl", "metadata.csv")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".tga"}
READERS, AT_ONCE = 8, 256  # threads that read captions, and how many each does in one go
Rows = list[tuple[str, dict[str, Any]]]  # paths are text here: a Path for each of a million files would take a minute


def read_records(root: Path, captions: CaptionSource = "auto", most: float = MOST_FAULTS) -> Listing:
    """Every picture below `root` with its caption, sorted by path or in the order of the metadata.

    Args:
        root: folder to read.
        captions: "metadata": `metadata.jsonl` or `metadata.csv`; "text": a .txt file beside each picture; "folders":
            the name of the sub-folder is the caption; "none": empty captions; "auto": the first of metadata, text
            and folders that is there.
        most: share of the pictures that may be left out.

    Raises:
        ValueError: no such folder, no pictures, captions that are in none of the layouts, or more than `most`
            of the pictures cannot be used.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; a data set is a folder with {LAYOUTS}")
    pictures, texts = _walk(root)
    if captions == "auto":
        captions = _detect(root, pictures, texts)
    faults: list[str] = []
    match captions:
        case "metadata":
            rows = _metadata_rows(root, set(pictures), faults)
        case "text":
            rows = _usable(pictures, lambda path: {"caption": _text_caption(path, texts)}, faults)
        case "folders":
            rows = _usable(pictures, lambda path: _folder_columns(root, path), faults)
        case _:
            rows = [(path, {"caption": ""}) for path in pictures]
    check_share(str(root), len(rows), faults, most)
    numbers, classes = class_numbers([columns for _, columns in rows])
    records = [Record(path=Path(path), columns=c, label=n) for (path, c), n in zip(rows, numbers, strict=True)]
    faults += _left_over(captions, rows, pictures, texts)
    return Listing(records=records, classes=classes, faults=faults)


def metadata_file(root: Path) -> Path | None:
    """The folder's metadata file, if it has one.

    Raises:
        ValueError: it has both kinds, which may disagree.
    """
    found = [root / name for name in METADATA if (root / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{root}: holds both {' and '.join(METADATA)}; remove one")
    return found[0] if found else None


def has_metadata(root: Path) -> bool:
    """Whether the folder has a metadata file.

    Raises:
        ValueError: it has both kinds, or folders in it have one: they are data sets, and it is none.
    """
    if metadata_file(root):
        return True
    inner = sorted(path.parent for name in METADATA for path in root.glob(f"*/{name}"))
    if inner:
        raise ValueError(f"{root}: has no metadata of its own, but {inner[0].name}/ has; give path {inner[0]}")
    return False


def _walk(root: Path) -> tuple[list[str], set[str]]:
    """Pictures, sorted, and text files below `root`; one look at each folder, none at each file.

    Links to folders are followed, after all that lies there itself, and no folder is looked into twice: a link may lead
    back to a folder that it is in.
    """
    pictures: list[str] = []
    texts: set[str] = set()
    folders, links, met = [str(root)], list[str](), set[Path]()
    here = f".{os.sep}"  # Path leaves that out
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        folder = folders.pop()
        real = Path(folder).resolve()
        if real in met:
            continue
        met.add(real)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                suffix = "." + entry.name.rpartition(".")[2].lower()
                if suffix in SUFFIXES and entry.is_file():
                    pictures.append(entry.path.removeprefix(here))
                elif suffix == ".txt" and entry.is_file():
                    texts.add(entry.path.removeprefix(here))
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_symlink() and Path(entry.path).is_dir():  # False too where links lead in a circle
                    links.append(entry.path)
    return sorted(pictures, key=lambda path: path.split(os.sep)), texts  # noqa: PTH206 (a Path costs more)


def _text_beside(path: str) -> str:
    return path.rpartition(".")[0] + ".txt"


def _detect(root: Path, pictures: list[str], texts: set[str]) -> CaptionSource:
    if has_metadata(root):
        return "metadata"
    if any(_text_beside(path) in texts for path in pictures):
        return "text"
    if all(os.sep in path.removeprefix(str(root) + os.sep) for path in pictures):
        return "folders"
    raise ValueError(f"{root}: no captions found; use {LAYOUTS}; to train without any, finetune.py --method dreambooth")


def _usable(pictures: list[str], columns: Callable[[str], dict[str, Any]], faults: list[str]) -> Rows:
    """The columns of every picture that has them; what is wrong with the others goes to `faults`."""

    def several(paths: list[str]) -> list[dict[str, Any] | Fault]:
        found: list[dict[str, Any] | Fault] = []
        for path in paths:
            try:
                found.append(columns(path))
            except Fault as fault:
                found.append(fault)
        return found

    some = [pictures[start : start + AT_ONCE] for start in range(0, len(pictures), AT_ONCE)]
    rows: Rows = []
    with ThreadPoolExecutor(READERS) as pool:  # each file is waited for, on a network's disk for long
        for paths, found in zip(some, pool.map(several, some), strict=True):
            rows += [(path, c) for path, c in zip(paths, found, strict=True) if not isinstance(c, Fault)]
            faults += [str(fault) for fault in found if isinstance(fault, Fault)]
    return rows


def _left_over(captions: CaptionSource, rows: Rows, pictures: list[str], texts: set[str]) -> list[str]:
    """Captions without their pictures, pictures without their rows: they cost no picture that was meant to be seen."""
    if captions == "text":
        captioned = {_text_beside(path) for path in pictures}
        folders = {path.rpartition(os.sep)[0] for path in pictures}
        lone = sorted(text for text in texts - captioned if text.rpartition(os.sep)[0] in folders)
        return [f"{shown(text)}: a caption without its picture" for text in lone]
    if captions == "metadata":
        return [
            f"{shown(path)}: not named in the metadata" for path in sorted(set(pictures) - {row[0] for row in rows})
        ]
    return []


def _metadata_rows(root: Path, pictures: set[str], faults: list[str]) -> Rows:
    source = metadata_file(root)
    if source is None:
        raise ValueError(f"{root}: no {' or '.join(METADATA)} here")
    rows: Rows = []
    seen: dict[str, int] = {}
    table = shown(source)
    for line, read in _read_table(source):
        try:
            columns = read()
            path = _named(root, columns, pictures, seen, f"{table}:{line}")
            seen[path] = line
            name = path.rpartition(os.sep)[2]
            rows.append((path, columns | {"caption": caption_of(columns, f"{table}:{line}: {shown(name)}")}))
        except Fault as fault:
            faults.append(str(fault))
    return rows


def _named(root: Path, columns: Mapping[str, Any], pictures: set[str], seen: Mapping[str, int], where: str) -> str:
    """The picture that a row names."""
    name = columns.get("file_name")
    if not isinstance(name, str) or not name:
        raise Fault(f"{where}: no file_name; each row names its picture, relative to {root}")
    path = f"{root}{os.sep}{name}"  # as the walk has it, if the name is a plain one: a Path of each costs seconds
    if path not in pictures:
        path = str(root / name)
    if path in seen:
        raise Fault(f"{where}: {name} is named again (first on line {seen[path]}); remove one row")
    if path not in pictures and not Path(path).is_file():  # most are known from the walk, without another look
        raise Fault(f"{where}: {name} does not exist in {root}; restore it or remove the row")
    return path


def _read_table(source: Path) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """(line number, what reads its columns) of each row."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot be read as UTF-8 text: {error}") from error
    if source.suffix == ".csv":
        yield from _csv_rows(source, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, partial(_json_row, source, number, line)


def _csv_rows(source: Path, text: str) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    reader = csv.DictReader(StringIO(text, newline=""))
    try:
        for row in reader:
            columns = {name: value for name, value in row.items() if name is not None}  # None: more values than columns
            yield reader.line_num, partial(dict, columns)
    except csv.Error as error:
        raise ValueError(f"{shown(source)}:{reader.line_num}: not CSV: {error}") from error


def _json_row(source: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise Fault(f"{shown(source)}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise Fault(f'{shown(source)}:{number}: expected an object like {{"file_name": ..., "caption": ...}}')
    return row


def _text_caption(path: str, texts: set[str]) -> str:
    source = _text_beside(path)
    if source not in texts:
        raise Fault(f"{shown(path)}: no caption; {Path(shown(source)).name} is missing beside it")
    try:
        with open(source, encoding="utf-8-sig") as file:  # noqa: PTH123 (a Path costs more)
            caption = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{shown(source)}: cannot be read as UTF-8 text: {error}") from error
    if not caption:
        raise Fault(f"{shown(path)}: no caption; {Path(shown(source)).name} is empty")
    return caption


def _folder_columns(root: Path, path: str) -> dict[str, Any]:
    name, inside, _ = path.removeprefix(str(root) + os.sep).partition(os.sep)
    if not inside:
        raise Fault(f"{shown(path)}: no caption; it lies outside the class folders of {root}")
    return {"caption": name.replace("_", " ").replace("-", " ").strip(), "label": name}
