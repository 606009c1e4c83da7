#!/usr/bin/env python3
"""Train stage 2, the latent diffusion model, and write a model folder. Run again with the same --out to resume."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ldm.core.command import parsed, run


def main() -> None:
    """Parse, load the configuration, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/ldm/emoji.yaml", help="YAML file of the run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. optim.lr=1e-4")
    parser.add_argument("--out", default="runs/ldm", help="folder of checkpoints, logs and the finished model")
    parser.add_argument("--init", type=Path, help="model folder whose weights a fresh run starts from")
    arguments = parsed(parser)

    from ldm.config import RunConfig
    from ldm.core.config_io import load
    from ldm.core.distributed import world
    from ldm.core.lock import claimed

    config = load(arguments.config, RunConfig, arguments.set)
    from ldm.training.fit import fit

    with claimed(Path(arguments.out)):
        finished = fit(config, Path(arguments.out), arguments.init)
    if world().first:
        print(finished)


if __name__ == "__main__":
    run(main)
