#!/usr/bin/env python3
"""Learn a noise schedule for a trained model, whose weights stay; print how steady the bound's estimate becomes."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji", help="model folder")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji" / "train", help="pictures to learn on")
    p.add_argument("--held-out", type=Path, default=ROOT / "data" / "emoji" / "heldout_cells", help="to measure on")
    p.add_argument("--samples", type=int, default=32, help="pictures of each folder")
    p.add_argument("--levels", type=int, default=32, help="levels a picture to learn the interior from")
    p.add_argument("--fit-steps", type=int, default=300, help="optimiser steps on those; no evaluation of the network")
    p.add_argument("--draws", type=int, default=32, help="levels a picture to measure each schedule with")
    p.add_argument("--logsnr-max", type=float, help="cleanest level, nats (default: the model's)")
    p.add_argument("--logsnr-min", type=float, help="noisiest level, nats (default: the model's)")
    p.add_argument("--ends", action="store_true", help="learn the ends too; the network may not know levels beyond its")
    p.add_argument("--end-steps", type=int, default=200, help="optimiser steps with --ends, 3 evaluations a picture")
    p.add_argument("--cells", type=int, default=128, help="straight pieces of the learned schedule")
    p.add_argument("--out", type=Path, help="JSON file to write the learned schedule to")
    p.add_argument("--batch", type=int, default=16, help="pictures computed together")
    p.add_argument("--seed", type=int, default=0, help="of the choice of pictures and the noise")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    return p


def main() -> None:
    options = parsed(parser())
    from ldm.core.device import pick_device
    from ldm.training.schedule_command import learn

    for text in learn(options, pick_device(options.device)):
        print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    run(main)
