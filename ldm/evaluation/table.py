"""Measured figures as rows, and rows as a table that a model card can quote."""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm.core.shapes import PerImage


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        pictures: which pictures were measured.
        figure: what was measured, with its unit.
        value: the measurement.
        error: its standard error; None where there is no simple one.
        n: how many pictures.
    """

    pictures: str
    figure: str
    value: float
    error: float | None
    n: int


def mean_row(pictures: str, figure: str, values: PerImage) -> Row:
    """The mean of a measurement per picture, with its standard error (None for a single picture)."""
    values = values.double()
    n = len(values)
    return Row(pictures, figure, values.mean().item(), (values.std() / n**0.5).item() if n > 1 else None, n)


def as_table(rows: Sequence[Row]) -> str:
    """A Markdown table, one line a row, columns aligned."""
    lines = [("pictures", "figure", "value", "+-", "n")]
    for row in rows:
        error = "" if row.error is None else f"{row.error:.4f}"
        lines.append((row.pictures, row.figure, f"{row.value:.4f}", error, str(row.n)))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    texts = [
        "| "
        + " | ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = (
        "|" + "|".join("-" * (width + 2) if i < 2 else "-" * (width + 1) + ":" for i, width in enumerate(widths)) + "|"
    )
    return "\n".join([texts[0], rule, *texts[1:]])
