#!/usr/bin/env python3
"""Print the bits per dimension of pictures by term, or which of several captions explains each of them best."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("pictures", type=Path, nargs="*", default=[ROOT / "data" / "emoji" / "heldout_cells"])
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji", help="model folder")
    p.add_argument("--samples", type=int, help="pictures to measure, drawn at random (default: all)")
    p.add_argument("--steps", type=int, default=0, help="T of the bound, from t = 1/T to 1; 0 is continuous time")
    p.add_argument("--draws", type=int, default=32, help="levels at which each picture is measured")
    p.add_argument("--path", type=int, metavar="K", help="the bound on a path of K steps, no level left out")
    p.add_argument("--spacing", default="tuned", choices=["tuned", "even", "quadratic"], help="which one, with --path")
    p.add_argument("--timesteps", type=int, nargs="+", metavar="T", help="the bound on the path of these timesteps")
    p.add_argument(
        "--variance", default="analytic", choices=["analytic", "posterior", "upper"], help="of the steps of a path"
    )
    p.add_argument("--ode", type=int, metavar="STEPS", help="-log p(z) by the probability flow in this many steps")
    p.add_argument("--probes", type=int, default=1, help="random directions of the flow's divergence")
    p.add_argument("--likelihood", default="laplace", choices=["laplace", "gaussian"], help="p(x|z) of a pixel")
    p.add_argument("--scale", type=float, help="its scale, pixels in [-1, 1] (default: measured)")
    p.add_argument("--scale-data", type=Path, help="folder to measure the scale on (default: the given pictures)")
    p.add_argument("--captions", nargs="+", help="captions to choose from, instead of bits")
    p.add_argument("--weight", default="elbo", choices=["elbo", "eps"], help="of the levels, with --captions")
    p.add_argument("--seed", type=int, default=0, help="of the choice of pictures and the noise")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    return p


def main() -> None:
    options = parsed(parser())
    from ldm.core.device import pick_device
    from ldm.evaluation.likelihood import likelihood

    for text in likelihood(options, pick_device(options.device)):
        print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    run(main)
