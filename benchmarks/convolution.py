"""3x3 convolutions in float32 with all products and with fewer (Winograd), in turn, at shapes of U-Nets and decoders.

    python benchmarks/convolution.py                      # all threads
    python benchmarks/convolution.py --threads 1 --rounds 3

The ratio is fewer / all; `ldm.core.winograd.fits` should hold where it is below 1. Errors are against float64, of the
standard deviation of the result.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.beside import in_turn
from ldm.core.packed import PackedConv2d
from ldm.core.winograd import Winograd, fits

SHAPES = [  # pictures, channels, filters, side
    (2, 320, 320, 64),
    (2, 960, 320, 64),
    (2, 640, 640, 32),
    (2, 1920, 640, 32),
    (2, 1280, 1280, 16),
    (1, 512, 512, 64),
    (1, 512, 512, 128),
    (1, 256, 256, 256),
    (1, 128, 128, 512),
    (1, 64, 64, 128),
    (1, 32, 32, 128),
    (1, 16, 16, 128),
    (1, 128, 3, 512),
    (1, 4, 320, 64),
]


def main() -> None:
    """Print one line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"float32, {torch.get_num_threads()} threads, medians of {options.rounds} in turn")
    for b, c, k, side in SHAPES:
        layer = nn.Conv2d(c, k, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        x = torch.randn(b, c, side, side).to(memory_format=torch.channels_last)
        everything, fewer = PackedConv2d(layer), Winograd(layer.weight.detach())
        everything.reduces = False
        with torch.inference_mode():
            exact = F.conv2d(x.double(), layer.weight.double(), padding=1)
            off = [((way(x) - exact).std() / exact.std()).item() for way in (everything, fewer)]
            ways = {"all": lambda: everything(x), "fewer": lambda: fewer(x)}  # noqa: B023
            taken = in_turn(ways, options.rounds)
        print(
            f"{b} x {c:4} -> {k:4}, {side:3}x{side:<3}  all {1e3 * taken.median('all'):8.2f} ms, "
            f"fewer {1e3 * taken.median('fewer'):8.2f} ms, ratio {taken.ratio('fewer', 'all'):.2f}  "
            f"errors {off[0]:.1e}, {off[1]:.1e}{'' if fits(c, k, side, side) else '  (not taken)'}",
            flush=True,
        )


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
