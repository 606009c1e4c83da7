#!/usr/bin/env python3
"""Look at pictures and captions before training: what is there, what is wrong, and a contact sheet."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, look, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", metavar="FOLDER", help="folder, .parquet file or .tar shards: {000..099}.tar")
    parser.add_argument("--size", type=int, default=512, help="side in pixels at which to train (default: %(default)s)")
    parser.add_argument(
        "--unit", type=int, default=64, help="what sides of buckets are multiples of (default: %(default)s)"
    )
    parser.add_argument("--captions", default="auto", choices=["auto", "metadata", "text", "folders", "none"])
    parser.add_argument(
        "--sheet", type=Path, default=Path("out/contact_sheet.png"), help="PNG to write (default: %(default)s)"
    )
    options = parsed(parser)

    from tqdm import tqdm

    from ldm.data.check import check, contact_sheet
    from ldm.data.folder import FolderSpec

    spec = FolderSpec(path=options.path, size=options.size, captions=options.captions)
    findings = check(spec, options.unit, lambda chunks: tqdm(chunks, desc="looking", disable=not sys.stderr.isatty()))
    for line in findings.lines():  # before the sheet: where that cannot be written, the look was not in vain
        print(line)
    unwritten = contact_sheet(findings, options.sheet)
    print(f"contact sheet: {options.sheet}")
    if unwritten:
        print(f"{unwritten} captions on it are numbers: no font here has their letters (e.g. fonts-noto has)")


if __name__ == "__main__":
    run(main)
