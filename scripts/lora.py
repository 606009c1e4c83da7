#!/usr/bin/env python3
"""Merge LoRA files into a model folder, or write one in another layout."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji", help="model folder that they were made for")
    p.add_argument("--lora", action="append", required=True, metavar="FILE[:SCALE]", help="repeatable with --to model")
    p.add_argument("--to", default="model", choices=["model", "ldm", "diffusers", "kohya"], help="what is written")
    p.add_argument("--out", type=Path, required=True, help="folder of the model, or the LoRA's new file")
    arguments = parsed(p)
    from ldm.inference.lora_command import merge_or_convert

    print(merge_or_convert(arguments.model, arguments.lora, arguments.to, arguments.out))


if __name__ == "__main__":
    run(main)
