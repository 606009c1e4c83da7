#!/usr/bin/env python3
"""Fetch permissively licensed emoji art and write it as an image folder with captions and splits."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, fetch, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/emoji"), help="folder to write (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="downloads (default: %(default)s)")
    parser.add_argument("--styles", nargs="+", metavar="STYLE", help="art styles (default: three of the nine)")
    parser.add_argument("--groups", nargs="+", metavar="GROUP", help="kinds of things (default: six of the eight)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides what is held out (default: %(default)s)")
    options = parsed(parser)

    from ldm.data.emoji.names import DEFAULT_GROUPS
    from ldm.data.emoji.prepare import prepare
    from ldm.data.emoji.report import table
    from ldm.data.emoji.styles import DEFAULT_STYLES

    summary = prepare(
        out=options.out,
        cache=options.cache,
        styles=options.styles or DEFAULT_STYLES,
        groups=options.groups or DEFAULT_GROUPS,
        size=options.size,
        seed=options.seed,
    )
    print(table(summary))


if __name__ == "__main__":
    run(main)
