"""The memory that drawing is said to need beside what it takes at its peak.

    python benchmarks/need.py                      # models/emoji, and a small random model of Stable Diffusion's kind

Every case is a process of its own that loads a model, estimates as `scripts/txt2img.py` does, and draws with guidance.
Measured is the most that the process held from then on; "above" leaves out of both what it held before the estimate.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from benchmarks.txt2img import write_model
from ldm.convert.opening import open_model
from ldm.core.device import pick_device
from ldm.core.memory import forget_most, most_resident, resident
from ldm.core.precision import narrow
from ldm.inference.need import estimate
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.placing import Placement, placed

EMOJI, SMALL = "emoji", "small Stable Diffusion"
CASES = {  # model, pictures at once, pixels of a side, in strips
    "a": (EMOJI, 1, 128, False),
    "b": (EMOJI, 16, 128, False),
    "c": (SMALL, 1, 256, False),
    "d": (SMALL, 1, 512, False),
    "e": (SMALL, 4, 512, False),
    "f": (SMALL, 4, 512, True),
}


@dataclass(frozen=True)
class Found:
    """Bytes: estimated and measured peak, what stood before the estimate, and the estimate's parts."""

    estimated: int
    measured: int
    before: int
    program: int
    weights: int
    network: int
    decoder: int


def found(folder: Path, batch: int, side: int, tile: bool, dtype: torch.dtype, steps: int) -> Found:
    """Draw in this process."""
    device = pick_device("cpu")
    how = Placement(device=device, dtype=dtype, tile=tile)
    model = open_model(folder)
    before = resident()
    forget_most()
    need = estimate(model, how, batch=batch, height=side, width=side)
    request = Request(
        prompts=("a red apple",) * batch,
        seeds=tuple(range(batch)),
        steps=steps,
        scale=2.5,
        height=side,
        width=side,
        batch=batch,
    )
    txt2img(placed(model, how), request, dtype=dtype)
    return Found(need.total, most_resident(), before, need.program, need.weights, need.network, need.decoder)


def elsewhere(case: str, folder: Path, options: argparse.Namespace) -> Found:
    """The same in a new process."""
    command = [sys.executable, __file__, "--only", case, "--folder", folder, "--dtype", options.dtype]
    done = subprocess.run([*map(str, command), "--steps", str(options.steps)], check=True, stdout=subprocess.PIPE)
    return Found(**json.loads(done.stdout))


def main() -> None:
    """Print estimate, peak and their ratio for every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtype = narrow("cpu") if options.dtype == "auto" else getattr(torch, options.dtype)
    if options.only:
        _, batch, side, tile = CASES[options.only]
        print(json.dumps(asdict(found(options.folder, batch, side, tile, dtype, options.steps))))
        return
    print(f"{dtype}, {torch.get_num_threads()} threads, {options.steps} steps, MB".replace("torch.", ""))
    print(
        "| case | estimate | measured | ratio | above: estimate | measured | ratio | program, weights, step, decoding |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as made:
        write_model(Path(made))
        folders = {EMOJI: ROOT / "models" / "emoji", SMALL: Path(made)}
        for case in options.cases:
            name, batch, side, tile = CASES[case]
            row = elsewhere(case, folders[name], options)
            above = row.estimated - row.before, row.measured - row.before
            columns = [f"{name}, {batch} of {side}x{side}{', --tile' if tile else ''}"]
            columns += [
                f"{row.estimated / 1e6:.0f}",
                f"{row.measured / 1e6:.0f}",
                f"{row.estimated / row.measured:.2f}",
            ]
            columns += [f"{above[0] / 1e6:.0f}", f"{above[1] / 1e6:.0f}", f"{above[0] / above[1]:.2f}"]
            parts = (row.program, row.weights, row.network, row.decoder)
            print("|", " | ".join([*columns, ", ".join(f"{part / 1e6:.0f}" for part in parts)]), "|", flush=True)


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
