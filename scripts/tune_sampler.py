#!/usr/bin/env python3
"""Measure a model's errors level by level; keep the best variances and the best path of each length beside it."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji", help="model folder; tuned.json goes there")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji" / "train", help="folder of pictures")
    p.add_argument("--samples", type=int, default=64, help="pictures to measure on")
    p.add_argument("--levels", type=int, default=100, help="timesteps to measure, each one evaluation a picture")
    p.add_argument("--steps", type=int, default=50, help="longest path")
    p.add_argument("--trajectories", type=int, default=16, help="pictures drawn to measure the errors of ODE steps")
    p.add_argument("--quality", action="store_true", help="choose and fit a sampler for 1 to 20 steps, for txt2img")
    p.add_argument("--seed", type=int, default=0, help="of the choice of pictures and the noise")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    return p


def main() -> None:
    options = parsed(parser())
    from ldm.core.device import pick_device
    from ldm.evaluation.tune import tune

    for text in tune(options, pick_device(options.device)):
        print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    run(main)
