#!/usr/bin/env python3
"""Fine-tune a model on a folder of pictures. The same command again resumes."""

import argparse
import sys
import time
from pathlib import Path

BEGAN = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.core.command import parsed, run

METHODS = ("lora", "full", "dreambooth", "textual-inversion")


def main() -> None:
    """Parse, load the recipe, fine-tune."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default=str(ROOT / "models" / "emoji"), help="model folder to start from")
    p.add_argument("--data", required=True, help="folder of pictures: a .txt beside each, metadata.jsonl, sub-folders")
    p.add_argument("--method", choices=METHODS, help="of stage ldm (default: lora)")
    p.add_argument("--token", help='word for what is new, e.g. "watercolour", or "<my-cat>" for textual inversion')
    p.add_argument("--subject", help="what kind of thing the pictures show (DreamBooth), e.g. cat")
    p.add_argument("--stage", default="ldm", choices=["ldm", "autoencoder"], help="which of the two is fine-tuned")
    p.add_argument("--config", help="recipe (default: configs/finetune/METHOD.yaml)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. optim.steps=400")
    p.add_argument("--out", help="folder of checkpoints, samples and the result (default: runs/finetune/METHOD)")
    arguments = parsed(p)
    from ldm.core.distributed import world
    from ldm.training.finetune_command import run_from

    result = run_from(arguments, BEGAN)
    if world().first:
        print(result)


if __name__ == "__main__":
    run(main)
