#!/usr/bin/env python3
"""Distil a model into one that draws in few steps and one evaluation each. The same command again resumes."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, load the configuration, distil."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/distill/emoji.yaml", help="YAML file of the distillation")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. optim.lr=1e-4")
    parser.add_argument("--out", default="runs/distill", help="folder of the stages and of the finished model")
    arguments = parsed(parser)

    from ldm.core.config_io import load
    from ldm.training.distill import DistillConfig

    config = load(arguments.config, DistillConfig, arguments.set)
    from ldm.core.lock import claimed
    from ldm.training.distill_fit import distill

    with claimed(Path(arguments.out)):
        print(distill(config, Path(arguments.out)))


if __name__ == "__main__":
    run(main)
