"""An upscaler beside plain interpolation and beside what its autoencoder can show at all, on pictures it has not seen.

Pictures of a folder, twice their size wanted, are made small in two ways: by interpolation, and then also through the
autoencoder, which leaves the flaws that drawn pictures have. Prints PSNR and LPIPS against the pictures themselves, and
writes a sheet: small, bicubic, ours, the picture itself.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PilImage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoencoder.metrics import psnr
from autoencoder.perceptual import load_lpips, perceptual_distance
from ldm.build import Model, load_model
from ldm.core.command import run
from ldm.core.images import grid, resized, save_png, to_float, to_uint8
from ldm.core.precision import autocast
from ldm.core.rng import fold
from ldm.core.shapes import Image, PerImage
from ldm.evaluation.reconstruction import Measure, heldout_views
from ldm.evaluation.table import as_table, mean_row
from ldm.inference.lowres import held_to
from ldm.inference.upscale import Upscale, upscale

ROOT = Path(__file__).resolve().parent.parent
SMALL, REDRAWN = "made small", "made small and redrawn"
CPU = torch.device("cpu")


def lanczos(small: Image, side: int) -> Image:
    """Pillow's Lanczos interpolation, on 8-bit pixels."""
    pixels = to_uint8(small).permute(0, 2, 3, 1).numpy()
    large = [np.array(PilImage.fromarray(p).resize((side, side), PilImage.Resampling.LANCZOS)) for p in pixels]
    return to_float(torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2))


@torch.inference_mode()
def reconstructed(model: Model, image: Image) -> Image:
    """Pictures through the autoencoder."""
    with autocast(CPU):
        return model.codec.decode(model.codec.posterior(image).mean).float().clamp(-1, 1)


def results(
    model: Model, image: Image, first: int, options: argparse.Namespace
) -> Iterator[tuple[str, str, Image, float]]:
    """(small pictures, method, result, seconds) for every method on a batch of pictures."""
    factor = options.factor
    side = image.shape[-1]
    shrunk = resized(image, side // factor, side // factor)
    seeds = tuple(fold(options.seed, "upscaling", first + i) for i in range(len(image)))
    seen = reconstructed(model, image)
    for kind, small in ((SMALL, shrunk), (REDRAWN, reconstructed(model, shrunk))):
        restore = kind == REDRAWN
        yield kind, "small", small, 0.0
        yield kind, "bicubic", resized(small, side, side), 0.0
        yield kind, "Lanczos", lanczos(small, side), 0.0
        for steps in options.steps:
            for noise in options.noise:
                how = Upscale(
                    prompts=("",) * len(image),
                    seeds=seeds,
                    factor=factor,
                    restore=restore,
                    noise=noise,
                    steps=steps,
                )
                started = time.perf_counter()
                large = upscale(model, small, how)
                yield kind, _ours(steps, noise), large, time.perf_counter() - started
        yield kind, "the autoencoder's limit", seen if restore else held_to(seen, small), 0.0
        yield kind, "the picture", image, 0.0


def _ours(steps: int, noise: float) -> str:
    return f"ours, {steps} step{'s' * (steps > 1)}" + (f", noise {noise:g}" if noise else "")


def main() -> None:
    """Measure, print, write the sheet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji-upscaler")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji256" / "heldout_cells")
    p.add_argument("--size", type=int, default=256, help="side of the pictures, pixels")
    p.add_argument("--factor", type=int, default=2)
    p.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 6, 10])
    p.add_argument("--noise", type=float, nargs="+", default=[0.0])
    p.add_argument("--every", type=int, default=1, help="measure one in so many batches of 16 views")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--sheet", type=Path, help="PNG to write")
    options = p.parse_args()
    model = load_model(options.model)
    measures: dict[str, Measure] = {"PSNR (dB)": psnr, "LPIPS (alex)": partial(perceptual_distance, load_lpips("alex"))}
    values: dict[tuple[str, str, str], list[PerImage]] = {}
    seconds: dict[str, float] = {}
    kept: dict[tuple[str, str], list[Image]] = {}
    first = 0
    for i, image in enumerate(heldout_views(options.data, options.size, options.seed)):
        if i % options.every:
            continue
        for kind, method, result, took in results(model, image, first, options):
            kept.setdefault((kind, method), []).append(result[:2])
            if method in ("small", "the picture"):
                continue
            seconds[method] = seconds.get(method, 0.0) + took
            for name, measure in measures.items():
                with torch.inference_mode():
                    values.setdefault((kind, method, name), []).append(measure(image, result))
        first += len(image)
    rows = [mean_row(f"{kind}: {method}", name, torch.cat(parts)) for (kind, method, name), parts in values.items()]
    print(f"{options.model} ({model.sha256[:12]}): {options.size // options.factor} to {options.size} pixels\n")
    print(as_table(rows))
    print("\nseconds a picture: " + ", ".join(f"{m} {s / first / 2:.2f}" for m, s in seconds.items() if s))
    if options.sheet is not None:
        save_png(sheet(kept, _ours(options.steps[-1], options.noise[-1])), options.sheet)


def sheet(kept: dict[tuple[str, str], list[Image]], ours: str, rows: int = 3) -> torch.Tensor:
    """Small, bicubic, ours and the picture itself, of pictures made small and, beside them, of redrawn ones."""
    columns = []
    for kind in (SMALL, REDRAWN):
        for method in ("small", "bicubic", ours, "the picture"):
            shown = torch.cat(kept[kind, method])[: 2 * rows : 2]
            times = kept[kind, "the picture"][0].shape[-1] // shown.shape[-1]
            columns.append(shown.repeat_interleave(times, -1).repeat_interleave(times, -2))
    return grid(torch.stack(columns, dim=1).flatten(0, 1), 2 * 4)


if __name__ == "__main__":
    run(main)
