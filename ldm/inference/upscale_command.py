"""What `scripts/upscale.py` does with its options: read the picture, enlarge, save."""

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from ldm.core.decoding import read_picture
from ldm.core.device import pick_device
from ldm.core.images import save_png
from ldm.core.shapes import Image
from ldm.data.captions import WHITE, compose
from ldm.inference.command import cut_words, telling
from ldm.inference.need import advised
from ldm.inference.options import LARGEST_SEED, dtype_of
from ldm.inference.recipe import own_version
from ldm.inference.upscale import Upscale, load_upscaler, upscale


def enlarge(options: argparse.Namespace) -> Path:
    """Enlarge the picture that the options name; returns the path of the PNG.

    Raises:
        ValueError: an option is not possible, or there is no picture; the message says which.
        OSError: the output folder cannot be written.
    """
    if not 0 <= options.seed <= LARGEST_SEED:
        raise ValueError(f"--seed: {options.seed} is outside 0 to 2^63 - 1")
    small = picture(options.image)
    options.out.mkdir(parents=True, exist_ok=True)
    if not os.access(options.out, os.W_OK):
        raise PermissionError(f"--out: no permission to write into {options.out}")
    device = pick_device(options.device)
    with advised():
        model = load_upscaler(options.model).to(device)
    how = Upscale(
        prompts=(options.prompt,),
        seeds=(options.seed,),
        factor=options.factor,
        restore=options.restore,
        noise=options.noise,
        steps=options.steps,
        scale=options.scale,
        batch=options.batch,
    )
    dtype = dtype_of(options, device)
    with advised():
        large = upscale(model, small, how, dtype=dtype, on_step=telling(cut_words(model, options.prompt)))[0]
    factor = large.shape[-1] // small.shape[-1]
    recipe = {"picture": options.image.name, "prompt": options.prompt, "seed": options.seed, "model": model.sha256}
    recipe |= {"factor": factor, "restore": options.restore, "noise": options.noise}
    recipe |= {"steps": options.steps or model.config.sample.steps, "dtype": str(dtype).removeprefix("torch.")}
    recipe |= {"upscaled by": f"scripts/upscale.py of ldm {own_version()}", "torch": torch.__version__}
    path = options.out / f"{options.image.stem}-x{factor}.png"
    said = f"Upscale: {factor}, Seed: {options.seed}, Model hash: {model.sha256[:10]}, Version: ldm {own_version()}"
    save_png(large, path, recipe, {"parameters": f"{options.prompt}\n{said}"})
    return path


def picture(path: Path) -> Image:
    """A picture file as (1, 3, h, w) in [-1, 1], over white where it can be seen through.

    Raises:
        ValueError: no such file, no picture, or a damaged one.
    """
    pixels: np.ndarray = np.array(read_picture(path))
    return compose(torch.from_numpy(pixels), WHITE)[None]
