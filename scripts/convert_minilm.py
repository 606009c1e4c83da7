#!/usr/bin/env python3
"""Write the shipped sentence encoder from the package that carries it."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--package-folder",
        type=Path,
        required=True,
        help="folder of the unpacked package that holds model.safetensors and tokenizer.json",
    )
    parser.add_argument("--out", type=Path, default=Path("models/minilm"), help="folder to write")
    arguments = parsed(parser)

    from ldm.convert.minilm import convert_minilm

    convert_minilm(arguments.package_folder, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    run(main)
