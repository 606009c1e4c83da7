"""Attention by PyTorch's fused kernel and by whole products, in turn, at the shapes of the networks that draw.

    python benchmarks/attention.py                        # bfloat16, all threads
    python benchmarks/attention.py --dtype float32 --threads 1

The ratio is products / fused: below 1 `ldm.nets.attention_backends.automatic` should take the products. The error is
that of each against float64, of the standard deviation of the result.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.beside import in_turn
from ldm.nets.attention_backends import plain, sdpa

SHAPES = {  # batch, queries, keys, heads, channels of a head
    "SD 1, 64x64, itself": (2, 4096, 4096, 8, 40),
    "SD 1, 64x64, words": (2, 4096, 77, 8, 40),
    "SD 1, 32x32, itself": (2, 1024, 1024, 8, 80),
    "SD 1, 32x32, words": (2, 1024, 77, 8, 80),
    "SD 1, 16x16, itself": (2, 256, 256, 8, 160),
    "SD 2, 64x64, itself": (2, 4096, 4096, 5, 64),
    "SD autoencoder, 64x64": (1, 4096, 4096, 1, 512),
    "shipped, 8x8, itself": (16, 64, 64, 8, 32),
    "CLIP ViT-L": (2, 77, 77, 12, 64),
}


def main() -> None:
    """Print one line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{options.dtype}, {torch.get_num_threads()} threads, medians of {options.rounds} in turn")
    for name, (b, n, m, heads, d) in SHAPES.items():
        q, k, v = (torch.randn(b, rows, heads, d).to(getattr(torch, options.dtype)) for rows in (n, m, m))
        with torch.inference_mode():
            exact = sdpa(q.double(), k.double(), v.double(), None)
            off = [((way(q, k, v, None) - exact).std() / exact.std()).item() for way in (sdpa, plain)]
            ways = {"fused": lambda: sdpa(q, k, v, None), "products": lambda: plain(q, k, v, None)}  # noqa: B023
            taken = in_turn(ways, options.rounds)
        fused, products = (1e3 * taken.median(way) for way in ways)
        ratio = taken.ratio("products", "fused")
        print(
            f"{name:24} fused {fused:8.2f} ms, products {products:8.2f} ms, ratio {ratio:.2f}"
            f"   errors {off[0]:.1e}, {off[1]:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
