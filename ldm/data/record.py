"""One picture of a data set, what is wrong with those that cannot be used, and when that is too much."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

LAYOUTS = (
    'metadata.jsonl with lines like {"file_name": "a.png", "caption": "..."}, metadata.csv with these columns, '
    "a.txt beside each a.png, one folder for each class, .parquet files, or .tar shards"
)
MOST_FAULTS = 0.1  # share of the pictures that may be left out; above it the data set is refused


@runtime_checkable
class Inside(Protocol):
    """Where in a file that holds many pictures one of them is; its text says so after the name of the file."""

    def read(self, path: Path) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture on disk.

    Attributes:
        path: the picture, or the file that holds it.
        columns: its row of metadata, "caption" always among them.
        label: class number, -1 where there are no classes.
        inside: where it is in a file that holds many; None: the file is the picture.
    """

    path: Path
    columns: Mapping[str, Any]
    label: int = -1
    inside: Inside | None = None

    @property
    def name(self) -> str:
        """Its name for people, on one line."""
        return shown(self.path) if self.inside is None else f"{shown(self.path)} {self.inside}"

    def open(self) -> Path | BytesIO:
        """What Pillow reads."""
        return self.path if self.inside is None else BytesIO(self.read())

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: the file cannot be read.
            ValueError: there is no picture at this place of the file.
        """
        return self.path.read_bytes() if self.inside is None else self.inside.read(self.path)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is in a data set.

    Attributes:
        records: the pictures that can be used, as far as is known without decoding them.
        classes: names of the labels; empty where the data has no classes or numbers them itself.
        faults: one line for each picture, row or caption that was left out.
    """

    records: list[Record]
    classes: list[str]
    faults: list[str]


class Fault(ValueError):
    """What is wrong with one picture, row or caption."""


def check_share(where: str, usable: int, faults: list[str], most: float = MOST_FAULTS) -> None:
    """Refuse a data set that is empty or mostly wrong.

    Raises:
        ValueError: nothing usable, or more than `most` of it not usable.
    """
    if faults and (not usable or len(faults) > most * (usable + len(faults))):
        more = f" (and {len(faults) - 1} more; scripts/check_data.py lists them)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}: too many of {usable + len(faults)} to train around")
    if not usable:
        raise ValueError(f"{where}: no pictures found; a data set is a folder with {LAYOUTS}")


def caption_of(columns: Mapping[str, Any], where: str) -> str:
    """The column `caption`, else `text`.

    Raises:
        Fault: neither has a text.
    """
    caption = columns.get("caption", columns.get("text"))
    if not isinstance(caption, str) or not caption.strip():
        raise Fault(f"{where} has no caption; fill the column caption (or text)")
    return caption.strip()


def shown(path: Path | str) -> str:
    """A path on one line, whatever its name."""
    return str(path).replace("\n", "\\n").replace("\r", "\\r")


def class_numbers(rows: list[dict[str, Any]]) -> tuple[list[int], list[str]]:
    """Number the classes in sorted order of their names, or by their own numbers where they are numbers.

    A class is the column `label`, else `concept`, where every row has it; else the number of each row is -1.
    """
    column = next((name for name in ("label", "concept") if all(name in columns for columns in rows)), None)
    if column is None:
        return [-1] * len(rows), []
    names = {str(columns[column]) for columns in rows}
    numbered = all(name.isdecimal() for name in names)
    classes = [] if numbered else sorted(names)
    numbers = {name: int(name) for name in names} if numbered else {name: i for i, name in enumerate(classes)}
    return [numbers[str(columns[column])] for columns in rows], classes
