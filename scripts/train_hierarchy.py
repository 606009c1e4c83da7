#!/usr/bin/env python3
"""Train small hierarchical VAEs (one level is a VAE) on small pictures; print their bounds by term, draw samples."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run


def dims(text: str) -> tuple[int, ...]:
    """Numbers of each level, the one next to the data first."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not like 64,32,16") from error


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji" / "train", help="pictures to learn")
    p.add_argument("--held-out", type=Path, default=ROOT / "data" / "emoji" / "heldout_cells", help="to measure on")
    p.add_argument("--side", type=int, default=16, help="pixels to which pictures are shrunk")
    p.add_argument("--samples", type=int, default=4000, help="pictures of each folder, at most")
    p.add_argument("--dims", type=dims, nargs="+", default=[(64,), (64, 32), (64, 32, 16)], metavar="N,N,...",
                   help="models: numbers of each level, the one next to the data first")  # fmt: skip
    p.add_argument("--width", type=int, default=256, help="of each Gaussian's hidden layer")
    p.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    p.add_argument("--batch", type=int, default=128, help="pictures a step")
    p.add_argument("--lr", type=float, default=1e-3, help="first learning rate of Adam")
    p.add_argument("--draws", type=int, default=16, help="of the levels for each picture that is measured")
    p.add_argument("--seed", type=int, default=0, help="of weights, batches and noise")
    p.add_argument("--out", type=Path, default=Path("out/hierarchy.png"), help="sheet of samples")
    return p


def main() -> None:
    options = parsed(parser())
    from ldm.training.hierarchy import train_all

    for text in train_all(options):
        print(text, flush=True)


if __name__ == "__main__":
    run(main)
