"""Drawing with packed layers and with plain ones, in turn, in each precision, for `ldm.core.packed.packing_pays`.

    python benchmarks/packing.py                                     # models/emoji, 1 picture, 20 steps, all threads
    python benchmarks/packing.py --threads 1 --count 4 --rounds 5

Seconds are of the process, on its cores, and the smallest of all rounds: other work on the machine only adds to them.
The last column is how far the pictures are from those of plain layers in float32. `ldm.core.precision.narrow` should
say bfloat16 where that is faster.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from ldm.core.packed import can_pack, packing_pays
from ldm.core.processor import processor
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.placing import Placement, placed
from ldm.model_folder import load_model

CPU = torch.device("cpu")


def main() -> None:
    """Print the CPU's capabilities and one line for each precision and kind of layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    parser.add_argument("--count", type=int, default=1, help="pictures computed together")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="timed drawings of each, after one that is not")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    options = parser.parse_args()
    for name in ("count", "steps", "rounds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: {value}; give 1 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    ways = [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True)]
    ways = [(dtype, packed) for dtype, packed in ways if not packed or can_pack(CPU, dtype)]
    models = {
        (dtype, packed): placed(load_model(options.model), Placement(device=CPU, dtype=dtype, packed=packed))
        for dtype, packed in ways
    }
    request = Request(
        prompts=("red apple, flat twemoji",) * options.count,
        seeds=tuple(range(options.count)),
        steps=options.steps,
        batch=options.count,
    )
    print(f"{processor()}; packed by itself: {packing_pays(processor())}")
    print(f"{options.model.name}, {options.count} pictures, {options.steps} steps, {torch.get_num_threads()} threads")
    pictures = {way: txt2img(model, request, dtype=way[0]) for way, model in models.items()}
    seconds: dict[tuple[torch.dtype, bool], list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, model in models.items():
            began = time.process_time()
            txt2img(model, request, dtype=way[0])
            seconds[way].append(time.process_time() - began)
    for dtype, packed in ways:
        off = (pictures[dtype, packed] - pictures[torch.float32, False]).abs().max() * 127.5
        print(
            f"{str(dtype).removeprefix('torch.'):9} {'packed' if packed else 'plain':7}"
            f"{min(seconds[dtype, packed]):7.2f} s, at most {off:.1f} of 255 levels off"
        )


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
