#!/usr/bin/env python3
"""The contact sheet of docs/pictures.md: runs its command lines, lays what they draw out in rows."""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SIDE, GAP = 128, 6
BEGINNING = '--prompt "red apple, soft 3d render" --seed 3'
FACE = '--prompt "grinning face, soft 3d render" --seed 1'
ROWS: dict[str, list[str]] = {
    "--image apple.png --strength 0, 0.3, 0.6, 0.9": [
        f'--image apple.png --strength {s} --prompt "green apple, soft 3d render"' for s in (0, 0.3, 0.6, 0.9)
    ],
    "--image face.png --mask eyes.png --resample 2 --count 3": [
        "--image face.png --mask eyes.png --resample 2 --count 3 "
        '--prompt "smiling face with sunglasses, soft 3d render"'
    ],
    "--image half.png --extend 0,0,64,0 --resample 2 --count 3": [
        '--image half.png --extend 0,0,64,0 --resample 2 --count 3 --prompt "red apple, soft 3d render"'
    ],
    "--image face.png --vary 0, 0.6": [
        f'--image face.png --vary {s} --prompt "grinning face, soft 3d render"' for s in (0, 0.6)
    ],
    "--variation-seed 7 --variation-strength 0.4, 1": [
        f"{FACE} --variation-seed 7 --variation-strength {s}" for s in (0.4, 1)
    ],
    "--to-prompt ... --to-seed 2 --frames 5": [
        '--prompt "dog face, soft 3d render" --to-prompt "grinning face, soft 3d render" --to-seed 2 --frames 5'
    ],
    '--prompt "dog face with (sunglasses:W)": W = 0, 1, 2, 4': [
        f'--prompt "dog face with (sunglasses:{w}), soft 3d render" --seed 3' for w in (0, 1, 2, 4)
    ],
}
SOURCES = {0: "apple.png", 1: "face.png", 2: "half.png", 3: "face.png", 4: "face.png"}  # of which row


def main() -> None:
    """Draw the sources, every row, and the sheet."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures.png")
    out = p.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(BEGINNING, folder)[0].rename(folder / "apple.png")
        draw(FACE, folder)[0].rename(folder / "face.png")
        Image.open(folder / "apple.png").crop((0, 0, 64, SIDE)).save(folder / "half.png")
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[24:72, 8:120] = 255
        Image.fromarray(mask).save(folder / "eyes.png")
        rows = []
        for i, commands in enumerate(ROWS.values()):
            first = [folder / SOURCES[i]] if i in SOURCES else []
            rows.append([Image.open(path).copy() for path in [*first, *(d for c in commands for d in draw(c, folder))]])
    sheet(rows, list(ROWS)).quantize(256).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size} bytes")


def draw(command: str, folder: Path) -> list[Path]:
    """What one command line draws, each time into a folder of its own."""
    from ldm.inference.command import draw as draw_with
    from scripts.txt2img import parser

    words = [str(folder / word) if word.endswith(".png") else word for word in shlex.split(command)]
    options = parser().parse_args([*words, "--steps", "8", "--out", tempfile.mkdtemp(dir=folder)])
    options.model_given, options.models, options.unspelled, options.expected = False, ROOT / "models", False, None
    return draw_with(options)


def sheet(rows: list[list[Image.Image]], titles: list[str]) -> Image.Image:
    """Rows of pictures on white, each below its title."""
    step = SIDE + GAP + 14
    width = max(len(row) for row in rows) * (SIDE + GAP) + GAP
    page = Image.new("RGB", (width, len(rows) * step + GAP), "white")
    pen = ImageDraw.Draw(page)
    for i, (row, title) in enumerate(zip(rows, titles, strict=True)):
        pen.text((GAP, i * step + 2), title, fill="black")
        for k, picture in enumerate(row):
            page.paste(picture, (GAP + k * (SIDE + GAP), i * step + 14))
    return page


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
