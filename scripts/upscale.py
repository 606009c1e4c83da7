#!/usr/bin/env python3
"""Enlarge a picture by a diffusion model that draws what the small one lacks."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run


def parser() -> argparse.ArgumentParser:
    """The options; everything heavy is imported only after they were read."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--image", type=Path, required=True, help="the picture; what can be seen through becomes white")
    p.add_argument("--prompt", default="", help="what it shows, if you want to say")
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji-upscaler")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder of the PNG")
    p.add_argument("--factor", type=int, help="how many times larger (default: what the model is for)")
    p.add_argument("--restore", action="store_true", help="mend flaws, e.g. of a picture that a model drew")
    p.add_argument("--noise", type=float, default=0.0, help="on what the model sees: more is freer (default: 0)")
    p.add_argument("--steps", type=int, help="network evaluations along the path")
    p.add_argument("--scale", type=float, help="classifier-free guidance; 1 is the plain model")
    p.add_argument("--seed", type=int, default=0, help="0 or more")
    p.add_argument("--batch", type=int, default=8, help="tiles of a large picture computed together")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    p.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"])
    return p


def main() -> None:
    """Parse, enlarge, say where the picture is."""
    arguments = parsed(parser())
    from ldm.inference.upscale_command import enlarge

    print(enlarge(arguments))


if __name__ == "__main__":
    run(main)
