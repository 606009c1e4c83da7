#!/usr/bin/env python3
"""Convert a model between this project's folder, a folder of diffusers, and a single Stable Diffusion file."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, convert, say where the result is."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", type=Path, metavar="IN", help="what to read: a folder, or a .safetensors or .ckpt file")
    p.add_argument("out", type=Path, metavar="OUT", help="what to write: a folder, or a .safetensors file")
    p.add_argument("--to", required=True, choices=["diffusers", "compvis", "native"], help="layout to write")
    p.add_argument("--prediction", choices=["eps", "v"], help="what the network predicts, where no file says it")
    p.add_argument("--variant", metavar="NAME", help="which weights: ema, non_ema, fp16, ... where there are several")
    p.add_argument("--allow-pickle", action="store_true", help="read .ckpt and .bin files: tensors, nothing is run")
    p.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="precision to write; default: as read")
    arguments = parsed(p)

    from ldm.convert.command import convert

    print(convert(arguments))


if __name__ == "__main__":
    run(main)
