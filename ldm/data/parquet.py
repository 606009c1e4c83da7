"""Parquet files as data sets are published in them: a column of encoded pictures and columns of text."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ldm.data.position import WINDOW
from ldm.data.record import MOST_FAULTS, Fault, Listing, Record, caption_of, check_share, class_numbers, shown


@dataclass(frozen=True)
class Row:
    """A picture in a Parquet file.

    Attributes:
        number: its row in the file, from 0.
        group: row group that holds it; a group is read as a whole.
        offset: its row in the group.
        column: of the pictures.
    """

    number: int
    group: int
    offset: int
    column: str

    def __str__(self) -> str:
        return f"row {self.number}"

    def read(self, path: Path) -> bytes:
        """The encoded picture.

        Raises:
            ValueError: there is none in this row.
        """
        value = _group(path, self.group, self.column)[self.offset].as_py()
        found = value.get("bytes") if isinstance(value, dict) else value
        if not found:
            raise ValueError(f"column {self.column} is empty here")
        return bytes(found)


def read_parquet(paths: list[Path], captions: bool = True, most: float = MOST_FAULTS) -> Listing:
    """Every row of the files that has a caption; no picture is read.

    Args:
        paths: Parquet files with one column of pictures, binary or a struct with the field `bytes`, and a column
            `caption` or `text`. Further columns of plain values are kept.
        captions: whether a row needs a caption; without, it is empty.
        most: share of the rows that may be left out.

    Raises:
        ValueError: pyarrow is missing, a file cannot be read or has no column of pictures, or more than `most` of the
            rows cannot be used.
    """
    rows: list[tuple[Path, Row, dict[str, Any]]] = []
    faults: list[str] = []
    for path in paths:
        for row, columns in _rows(path):
            try:
                columns["caption"] = caption_of(columns, f"{shown(path)} {row}") if captions else ""
                rows.append((path, row, columns))
            except Fault as fault:
                faults.append(str(fault))
    check_share(", ".join(map(shown, paths[:1])), len(rows), faults, most)
    numbers, classes = class_numbers([columns for _, _, columns in rows])
    records = [
        Record(path=path, columns=columns, label=number, inside=row)
        for (path, row, columns), number in zip(rows, numbers, strict=True)
    ]
    return Listing(records=records, classes=classes, faults=faults)


def _rows(path: Path) -> list[tuple[Row, dict[str, Any]]]:
    """Where every picture of a file is, and the other columns beside it."""
    file = _open(path)
    import pyarrow.types as kinds

    pictures = [field.name for field in file.schema_arrow if _holds_pictures(field.type)]
    if len(pictures) > 1 and "image" in pictures:
        pictures = ["image"]
    if len(pictures) != 1:
        found = ", ".join(file.schema_arrow.names)
        raise ValueError(f"{shown(path)}: {len(pictures)} columns of pictures among {found}; one is needed: image")
    plain = [field.name for field in file.schema_arrow if not kinds.is_nested(field.type) and field.name != pictures[0]]
    found_rows, number = [], 0
    for group in range(file.num_row_groups):
        texts = file.read_row_group(group, columns=plain).to_pylist() if plain else []
        count = file.metadata.row_group(group).num_rows
        for offset in range(count):
            found_rows.append((Row(number, group, offset, pictures[0]), texts[offset] if texts else {}))
            number += 1
    return found_rows


def _holds_pictures(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))


def _open(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"{shown(path)}: Parquet files need pyarrow; install it: pip install 'ldm[parquet]'"
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{shown(path)}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error


# A group is hundreds of pictures. Of those that `through_parts` mixes one may be done when the next is begun.
@lru_cache(maxsize=WINDOW + 1)
def _group(path: Path, group: int, column: str) -> Any:
    return _open(path).read_row_group(group, columns=[column]).column(column)
