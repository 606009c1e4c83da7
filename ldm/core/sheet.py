"""Pictures of the same things at several moments of a training, one row for each, in one sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ldm.core.images import save_png

MARGIN = 72  # pixels for the name of a row
NARROWEST = 96  # pixels of a column, which the head above it has to itself; smaller pictures are enlarged


def save_sheet(rows: Sequence[tuple[str, Path]], heads: Sequence[str], path: Path) -> None:
    """Write rows below each other, with their names beside them and the heads of the columns above.

    Args:
        rows: name and PNG of each, all of one size; small pictures are enlarged by a whole number.
        heads: one for each column; "" leaves it without.
        path: PNG to write.
    """
    strips = [Image.open(row).convert("RGB") for _, row in rows]
    width, height = strips[0].size
    times = max(1, -(-NARROWEST * len(heads) // width))
    width, height = width * times, height * times
    strips = [strip.resize((width, height), Image.Resampling.NEAREST) for strip in strips]
    font, cell = ImageFont.load_default(12), width // len(heads)
    texts = [wrapped(head, cell, font) for head in heads]
    top = 8 + 15 * max(text.count("\n") + 1 if text else 0 for text in texts)
    sheet = Image.new("RGB", (MARGIN + width, top + height * len(strips)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, text in enumerate(texts):
        pen.multiline_text((MARGIN + i * cell + 4, 2), text, "black", font)
    for i, ((name, _), strip) in enumerate(zip(rows, strips, strict=True)):
        sheet.paste(strip, (MARGIN, top + i * height))
        pen.text((4, top + i * height + height // 2), name, "black", font)
    pixels = torch.from_numpy(np.array(sheet)).permute(2, 0, 1) / 127.5 - 1
    save_png(pixels, path, {"heads": list(heads)})


def wrapped(text: str, width: int, font: Any) -> str:
    """`text` in lines of at most `width` pixels; a longer word is broken."""
    lines = [""]
    words = [part for word in text.split() for part in broken(word, width, font)]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width - 8 or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def broken(word: str, width: int, font: Any) -> list[str]:
    """A word in parts of at most `width` pixels, of a letter at least."""
    parts = [""]
    for letter in word:
        if parts[-1] and font.getlength(parts[-1] + letter) > width - 8:
            parts.append("")
        parts[-1] += letter
    return parts
