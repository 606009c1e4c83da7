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
from ldm.inference.conditions import needed_chunks
from ldm.inference.need import estimate
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.placing import Placement, placed
from ldm.inference.upscale import Upscale, load_upscaler, upscale
from ldm.inference.weaker import load_weak

EMOJI, SMALL = "emoji", "small Stable Diffusion"


@dataclass(frozen=True)
class Case:
    """What is drawn: by which model, pictures at once, pixels of a side, what else."""

    model: str
    batch: int
    side: int
    tile: bool = False
    weak: bool = False
    upscale: bool = False
    words: int = 3

    def __str__(self) -> str:
        more = [f"--{name}" for name in ("tile", "weak", "upscale") if getattr(self, name)]
        more += [f"a prompt of {self.words} words"] if self.words > 3 else []
        return ", ".join([f"{self.model}, {self.batch} of {self.side}x{self.side}", *more])


CASES = {
    "a": Case(EMOJI, 1, 128),
    "b": Case(EMOJI, 16, 128),
    "c": Case(SMALL, 1, 256),
    "d": Case(SMALL, 1, 512),
    "e": Case(SMALL, 4, 512),
    "f": Case(SMALL, 4, 512, tile=True),
    "g": Case(SMALL, 1, 256, weak=True, words=300),
    "h": Case(EMOJI, 4, 128, upscale=True),
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


def found(folder: Path, case: Case, dtype: torch.dtype, steps: int) -> Found:
    """Draw in this process."""
    device = pick_device("cpu")
    how = Placement(device=device, dtype=dtype, tile=case.tile)
    model = open_model(folder)
    weak = load_weak(folder, model, 2.0) if case.weak else None
    upscaler = load_upscaler(ROOT / "models" / "emoji-upscaler") if case.upscale else None
    prompt = " ".join(["a red apple"] * (case.words // 3))
    before = resident()
    forget_most()
    need = estimate(
        model,
        how,
        batch=case.batch,
        height=case.side,
        width=case.side,
        chunks=needed_chunks(model, prompt),
        weak=None if weak is None else weak.model,
        upscaler=upscaler,
        tiles=case.batch,
    )
    request = Request(
        prompts=(prompt,) * case.batch,
        seeds=tuple(range(case.batch)),
        steps=steps,
        scale=2.5,
        height=case.side,
        width=case.side,
        batch=case.batch,
        away=weak,
    )
    images = txt2img(placed(model, how), request, dtype=dtype)
    if upscaler is not None:
        how_large = Upscale(prompts=request.prompts, seeds=request.seeds, restore=True, batch=case.batch)
        upscale(upscaler, images, how_large, dtype=dtype)
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
        print(json.dumps(asdict(found(options.folder, CASES[options.only], dtype, options.steps))))
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
            row = elsewhere(case, folders[CASES[case].model], options)
            above = row.estimated - row.before, row.measured - row.before
            columns = [str(CASES[case])]
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
