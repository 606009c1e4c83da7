"""What sampling costs beside the networks: the share of a drawing's time that is in none of them.

    python benchmarks/overhead.py

Draws with every sampler, `--repeats` times, and prints the median share of the wall time outside the U-Net, the text
encoder, the guess and the decoder, for drawing as `txt2img` does it: noise, levels, guidance, the sampler's own
arithmetic.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from ldm.build import Model
from ldm.core.device import pick_device
from ldm.inference.pipeline import Request, txt2img
from ldm.model_folder import load_model
from ldm.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parent.parent


class Clock:
    """Seconds inside the functions that it wraps, each second once where one calls another."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.busy = device, 0.0, False

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.busy:
                return function(*args, **kwargs)
            self.busy, began = True, self.now()
            result = function(*args, **kwargs)
            self.seconds += self.now() - began
            self.busy = False
            return result

        return timed


@contextmanager
def networks_timed(model: Model, clock: Clock) -> Iterator[None]:
    """Count the time of all networks of a model within the block."""
    parts = [model.denoise.net, model.text, *([] if model.guess is None else [model.guess])]
    places: list[tuple[Any, str]] = [(part, "forward") for part in parts] + [(model.codec, "decode")]
    if model.guess is not None:
        places.append((model.guess, "into"))
    for place, name in places:
        object.__setattr__(place, name, clock.within(getattr(place, name)))
    try:
        yield
    finally:
        for place, name in places:
            object.__delattr__(place, name)


def share_outside(model: Model, request: Request, clock: Clock) -> float:
    """Share of the wall time of a drawing that is in no network."""
    clock.seconds = 0.0
    began = clock.now()
    txt2img(model, request)
    return 1 - clock.seconds / (clock.now() - began)


def main() -> None:
    """Print the share of a drawing that is in no network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samplers", nargs="+", default=["automatic", *SAMPLERS])
    options = parser.parse_args()
    device = pick_device("auto")
    model, clock = load_model(options.model).to(device), Clock(device)
    request = Request(
        prompts=("red apple, flat twemoji",) * options.batch,
        seeds=tuple(range(options.batch)),
        steps=options.steps,
        batch=options.batch,
    )
    with networks_timed(model, clock):
        share_outside(model, replace(request, steps=2), clock)
        for name in options.samplers:
            asked = request if name == "automatic" else replace(request, sampler=name)
            shares = [share_outside(model, asked, clock) for _ in range(options.repeats)]
            print(f"{name:<18} {statistics.median(shares):7.2%} of the time outside of the networks", flush=True)


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
