"""Find pictures and their captions on disk, in any of the layouts that people have."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CaptionSource = Literal["auto", "metadata", "text", "folders", "none"]
METADATA = ("metadata.jsonl", "metadata.csv")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".tga"}
LAYOUTS = (
    'metadata.jsonl with lines like {"file_name": "a.png", "caption": "..."}, metadata.csv with these columns, '
    "a.txt beside each a.png, or one folder for each class"
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture on disk.

    Attributes:
        path: the picture.
        columns: its row of metadata, "caption" always among them.
        label: class number, -1 where there are no classes.
    """

    path: Path
    columns: Mapping[str, Any]
    label: int = -1


def read_records(root: Path, captions: CaptionSource = "auto") -> tuple[list[Record], list[str]]:
    """Every picture below `root` with its caption, sorted by path or in the order of the metadata.

    Args:
        root: folder to read.
        captions: "metadata": `metadata.jsonl` or `metadata.csv`; "text": a .txt file beside each picture; "folders":
            the name of the sub-folder is the caption; "none": empty captions; "auto": the first of metadata, text
            and folders that is there.

    Returns:
        The records, and the names of the classes: a metadata column `label` or `concept`, or the sub-folders;
        no names where the data has no classes or numbers them itself.

    Raises:
        ValueError: no such folder, no pictures, a missing or duplicated file, or a picture without caption.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; a data set is a folder with {LAYOUTS}")
    if captions == "auto":
        captions = _detect(root)
    match captions:
        case "metadata":
            rows = _metadata_rows(root)
        case "text":
            rows = [(path, {"caption": _text_caption(path)}) for path in pictures_below(root)]
        case "folders":
            rows = [(path, _folder_columns(root, path)) for path in pictures_below(root)]
        case _:
            rows = [(path, {"caption": ""}) for path in pictures_below(root)]
    if not rows:
        raise ValueError(f"{root}: no pictures found; a data set is a folder with {LAYOUTS}")
    return _labelled(rows)


def pictures_below(root: Path) -> list[Path]:
    """All picture files below `root`, sorted; hidden files and folders are not looked at."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def metadata_file(root: Path) -> Path | None:
    """The folder's metadata file, if it has one.

    Raises:
        ValueError: it has both kinds, which may disagree.
    """
    found = [root / name for name in METADATA if (root / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{root}: holds both {' and '.join(METADATA)}; remove one")
    return found[0] if found else None


def _detect(root: Path) -> CaptionSource:
    if metadata_file(root):
        return "metadata"
    inner = sorted(path.parent for name in METADATA for path in root.glob(f"*/{name}"))
    if inner:
        raise ValueError(f"{root}: has no metadata of its own, but {inner[0].name}/ has; give path {inner[0]}")
    pictures = pictures_below(root)
    if any(path.with_suffix(".txt").is_file() for path in pictures):
        return "text"
    if all(path.parent != root for path in pictures):
        return "folders"
    raise ValueError(f"{root}: no captions found; use {LAYOUTS}, or set captions: none")


def _metadata_rows(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    source = metadata_file(root)
    if source is None:
        raise ValueError(f"{root}: no {' or '.join(METADATA)} here")
    rows: list[tuple[Path, dict[str, Any]]] = []
    seen: dict[Path, int] = {}
    for line, columns in _read_table(source):
        name = columns.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{source}:{line}: no file_name; each row names its picture, relative to {root}")
        path = root / name
        if path in seen:
            raise ValueError(f"{source}:{line}: {name} is named again (first on line {seen[path]}); remove one row")
        seen[path] = line
        if not path.is_file():
            raise ValueError(f"{source}:{line}: {name} does not exist in {root}; restore it or remove the row")
        caption = columns.get("caption", columns.get("text"))
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{source}:{line}: {name} has no caption; fill the column caption (or text)")
        rows.append((path, columns | {"caption": caption.strip()}))
    return rows


def _read_table(source: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    """(line number, columns) of each row."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot be read as UTF-8 text: {error}") from error
    if source.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        yield from ((reader.line_num, dict(row)) for row in reader)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _json_row(source, number, line)


def _json_row(source: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f'{source}:{number}: expected an object like {{"file_name": ..., "caption": ...}}')
    return row


def _text_caption(path: Path) -> str:
    source = path.with_suffix(".txt")
    if not source.is_file():
        raise ValueError(f"{path}: no caption; {source.name} is missing beside it")
    try:
        caption = source.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot be read as UTF-8 text: {error}") from error
    if not caption:
        raise ValueError(f"{path}: no caption; {source.name} is empty")
    return caption


def _folder_columns(root: Path, path: Path) -> dict[str, str]:
    if path.parent == root:
        raise ValueError(f"{path}: no caption; it lies outside the class folders of {root}")
    name = path.relative_to(root).parts[0]
    return {"caption": name.replace("_", " ").replace("-", " ").strip(), "label": name}


def _labelled(rows: list[tuple[Path, dict[str, Any]]]) -> tuple[list[Record], list[str]]:
    """Number the classes in sorted order of their names, or by their own numbers where they are numbers."""
    column = next((name for name in ("label", "concept") if all(name in columns for _, columns in rows)), None)
    if column is None:
        return [Record(path=path, columns=columns) for path, columns in rows], []
    names = {str(columns[column]) for _, columns in rows}
    numbered = all(name.isdecimal() for name in names)
    classes = [] if numbered else sorted(names)
    numbers = {name: int(name) for name in names} if numbered else {name: i for i, name in enumerate(classes)}
    return [Record(path=path, columns=c, label=numbers[str(c[column])]) for path, c in rows], classes
