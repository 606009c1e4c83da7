#!/usr/bin/env python3
"""Compose captioned scenes from cut-out art and write them as an image folder: things, colours, counts, positions."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, draw the art, compose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/scenes"), help="folder to write (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="downloads (default: %(default)s)")
    parser.add_argument("--count", type=int, default=20_000, help="training scenes (default: %(default)s)")
    parser.add_argument(
        "--heldout", type=int, default=1000, help="scenes with held-out combinations (default: %(default)s)"
    )
    parser.add_argument("--styles", nargs="*", metavar="STYLE", help="art styles (default: three of the nine)")
    parser.add_argument(
        "--art", type=Path, metavar="FOLDER", help="cut-out pictures of your own, named by what they show"
    )
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides every scene (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    options = parsed(parser)
    for name in ("count", "heldout", "jobs"):
        if not 1 <= getattr(options, name) <= 10_000_000:
            raise ValueError(f"--{name} {getattr(options, name)}: give a number from 1 to 10,000,000")

    from ldm.data.scenes.art import DEFAULT_STYLES, load_art
    from ldm.data.scenes.prepare import SceneSet, prepare
    from ldm.data.scenes.scene import SceneSpec

    train = SceneSpec(size=options.size)
    heldout = SceneSpec(size=options.size, split="heldout")
    styles = DEFAULT_STYLES if options.styles is None else tuple(options.styles)
    art = load_art(options.cache, styles, options.art)
    for fault in art.faults:
        print(f"left out: {fault}", file=sys.stderr)
    sets = [
        SceneSet(name="train", spec=train, count=options.count),
        SceneSet(name="heldout", spec=heldout, count=options.heldout),
    ]
    prepare(art, sets, out=options.out, seed=options.seed, jobs=options.jobs)
    drawings = sum(map(len, art.sprites.values()))
    print(f"{options.out}: {options.count} + {options.heldout} scenes of {len(art.things)} things, {drawings} drawings")


if __name__ == "__main__":
    run(main)
