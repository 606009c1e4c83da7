"""Folders of coloured shapes with captions."""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "black": (20, 20, 20)}


def make_shapes(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir(parents=True)
    draw_number, rows = random.Random(seed), []
    for i in range(count):
        colour, shape = list(COLOURS)[i % 4], ("circle", "square")[i // 4 % 2]
        picture = Image.new("RGB", (32, 32), "white")
        left, top = draw_number.randint(2, 10), draw_number.randint(2, 10)
        box = (left, top, left + 18, top + 18)
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=COLOURS[colour])
        picture.save(folder / f"{i:02}.png")
        rows.append(json.dumps({"file_name": f"{i:02}.png", "text": f"a {colour} {shape}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
