#!/usr/bin/env python3
"""Train a classifier of noisy latents, for classifier guidance. Run again with the same --out to resume."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, load the configuration, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/classifier/style.yaml", help="YAML file of the run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. optim.lr=1e-4")
    parser.add_argument("--out", default="runs/classifier", help="folder of checkpoints, logs and the bundle")
    arguments = parsed(parser)

    from ldm.core.config_io import load
    from ldm.core.lock import claimed
    from ldm.training.classifier import ClassifierConfig, fit

    config = load(arguments.config, ClassifierConfig, arguments.set)
    with claimed(Path(arguments.out)):
        print(fit(config, Path(arguments.out)))


if __name__ == "__main__":
    run(main)
