"""An upscaler beside plain interpolation and beside what its autoencoder can show at all, on pictures it has not seen.

Pictures of a folder are made small and enlarged again. Prints PSNR and LPIPS against the pictures themselves, and
writes a sheet: small, bicubic, bicubic through the autoencoder (what the upscaler gives without any correction), ours,
the picture itself. With --redrawn the small pictures also pass through the autoencoder, which leaves the flaws that
drawn pictures have, and results are not held to them.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image as PilImage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoencoder.metrics import psnr
from autoencoder.perceptual import load_lpips, perceptual_distance
from ldm.build import Model
from ldm.core.command import run
from ldm.core.images import grid, resized, save_png, to_float, to_uint8
from ldm.core.precision import autocast
from ldm.core.rng import fold
from ldm.core.shapes import Image, PerImage
from ldm.evaluation.reconstruction import Measure, heldout_views
from ldm.evaluation.table import as_table, mean_row
from ldm.inference.lowres import held_to
from ldm.inference.upscale import Upscale, load_upscaler, upscale

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SHOWN = ("small", "bicubic", "bicubic, through the autoencoder", "the picture")  # in the sheet, beside ours


class Result(NamedTuple):
    """What a method made of a batch of small pictures, and how long it took, seconds."""

    method: str
    large: Image
    took: float = 0.0


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


def results(model: Model, image: Image, seeds: tuple[int, ...], options: argparse.Namespace) -> Iterator[Result]:
    """What every method makes of a batch of pictures."""
    side = image.shape[-1]
    small = resized(image, side // options.factor, side // options.factor)
    if options.redrawn:
        small = reconstructed(model, small)

    def held(large: Image) -> Image:
        return large if options.redrawn else held_to(large, small)

    bicubic = resized(small, side, side)
    yield Result("small", small)
    yield Result("bicubic", bicubic)
    yield Result("Lanczos", lanczos(small, side))
    yield Result("bicubic, through the autoencoder", held(reconstructed(model, bicubic)))
    same = Upscale(prompts=("",) * len(image), seeds=seeds, factor=options.factor, restore=options.redrawn)
    for steps in options.steps:
        for noise in options.noise:
            started = time.perf_counter()
            large = upscale(model, small, replace(same, steps=steps, noise=noise))
            yield Result(_ours(steps, noise), large, time.perf_counter() - started)
    yield Result("the autoencoder's limit", held(reconstructed(model, image)))
    yield Result("the picture", image)


def _ours(steps: int, noise: float) -> str:
    return f"ours, {steps} step{'s' * (steps > 1)}" + (f", noise {noise:g}" if noise else "")


def main() -> None:
    """Measure, print, write the sheet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji-upscaler")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji256" / "heldout_cells")
    p.add_argument("--size", type=int, default=256, help="side of the pictures, pixels")
    p.add_argument("--factor", type=int, default=2)
    p.add_argument("--redrawn", action="store_true", help="small pictures that also went through the autoencoder")
    p.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    p.add_argument("--noise", type=float, nargs="+", default=[0.0])
    p.add_argument("--every", type=int, default=1, help="measure one in so many batches of 16 views")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--sheet", type=Path, help="PNG to write: the first picture of every batch")
    options = p.parse_args()
    model = load_upscaler(options.model)
    measures: dict[str, Measure] = {
        "PSNR (dB)": psnr,
        "LPIPS (alex)": partial(perceptual_distance, load_lpips("alex")),
    }
    values: dict[tuple[str, str], list[PerImage]] = {}
    seconds: dict[str, list[float]] = {}
    shown: list[Image] = []
    for i, image in enumerate(heldout_views(options.data, options.size, options.seed)):
        if i % options.every:
            continue
        seeds = tuple(fold(options.seed, "upscaling", i, j) for j in range(len(image)))
        for method, result, took in results(model, image, seeds, options):
            if method in SHOWN or method == _ours(options.steps[0], options.noise[0]):
                shown.append(enlarged(result[:1], options.size))
            if method in ("small", "the picture"):
                continue
            seconds.setdefault(method, []).append(took / len(image))
            for name, measure in measures.items():
                with torch.inference_mode():
                    values.setdefault((method, name), []).append(measure(image, result))
    kind = "redrawn, " if options.redrawn else ""
    print(f"{options.model} ({model.sha256[:12]}): {kind}{options.size // options.factor} to {options.size} pixels\n")
    print(as_table([mean_row(method, name, torch.cat(parts)) for (method, name), parts in values.items()]))
    print("\nseconds a picture: " + ", ".join(f"{m} {sum(s) / len(s):.2f}" for m, s in seconds.items() if sum(s)))
    if options.sheet is not None:
        save_png(grid(torch.cat(shown), len(SHOWN) + 1), options.sheet)


def enlarged(image: Image, side: int) -> Image:
    """Pictures with every pixel repeated, so that all of a sheet have one size."""
    times = side // image.shape[-1]
    return image.repeat_interleave(times, -1).repeat_interleave(times, -2)


if __name__ == "__main__":
    run(main)
