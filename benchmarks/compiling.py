"""What `--compile` of `scripts/txt2img.py` costs and brings: seconds to compile, and a step with and without it.

    python benchmarks/compiling.py                          # models/emoji, 4 pictures at once, 10 steps

Both models draw the same pictures in turn. The compiler's cache is a new folder, so that nothing is found that was
compiled before; `--cache FOLDER` shows what a second process costs that finds it. Time is of the process and of the
compilers that it starts, on its cores: waiting for other programs is not counted.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from ldm.core.device import pick_device
from ldm.core.precision import narrow
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.placing import Placement, placed
from ldm.model_folder import load_model


def busy(run: Callable[[], object]) -> float:
    """Seconds of computing that `run` took, in this process and in those that it waited for."""
    before = os.times()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return sum(os.times()[:4]) - sum(before[:4])


def main() -> None:
    """Print the time to compile, the steps and the difference of the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    parser.add_argument("--count", type=int, default=4, help="pictures computed together")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="of the compiler (default: a new folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(options.cache or empty)
        device = pick_device("auto")
        dtype = narrow(device)
        plain, compiled = (
            placed(load_model(options.model), Placement(device=device, dtype=dtype, compile=compile))
            for compile in (False, True)
        )
        threads = torch.get_num_threads()
        print(
            f"{options.model.name}, {dtype}, {threads} threads, {options.steps} steps, {options.count} pictures",
            flush=True,
        )
        request = Request(
            prompts=("red apple, flat twemoji",) * options.count,
            seeds=tuple(range(options.count)),
            steps=options.steps,
            batch=options.count,
        )
        pictures = [txt2img(plain, request)]
        began = time.perf_counter()
        first = busy(lambda: pictures.append(txt2img(compiled, request)))
        waited = time.perf_counter() - began
        programs = [partial(txt2img, model, request) for model in (plain, compiled)]
        seconds = [[busy(program) for program in programs] for _ in range(options.rounds)]
    ours, theirs = (statistics.median(side) / options.steps for side in zip(*seconds, strict=True))
    ratio = statistics.median(b / a for a, b in seconds)
    levels = (pictures[0] - pictures[1]).abs() * 127.5
    print(f"compiling: {first - options.steps * theirs:.0f} s; the first drawing {waited:.0f} s on the clock")
    print(f"a step of all pictures: {1000 * ours:.0f} ms, compiled {1000 * theirs:.0f} ms; median ratio {ratio:.2f}")
    print(f"the pictures differ by {levels.mean():.2f} of 255 levels, at most by {levels.max():.0f}")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
