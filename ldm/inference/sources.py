"""The pictures that options name, as what a drawing starts from, and what lies between two of them."""

import argparse

import numpy as np
import torch
from PIL import Image as PilImage
from PIL import ImageOps
from torch import Tensor

from ldm.build import Model
from ldm.core.decoding import read_picture
from ldm.inference.blend import Blend
from ldm.inference.canvas import Canvas
from ldm.inference.pipeline import LARGEST_SEED
from ldm.inference.start import Start

STRENGTH, FEATHER, FRAMES, VARIATION = 0.6, 4, 5, 0.1  # where no option says otherwise
LARGEST = 2048 * 2048  # pixels of a picture that is drawn at its own size
NEEDS_IMAGE = ("strength", "mask", "extend", "feather", "resample", "vary")
NEEDS_MASK = ("feather", "resample")


def check_sources(options: argparse.Namespace) -> None:
    """Refuse combinations that mean nothing, before anything is loaded.

    Raises:
        ValueError: an option without the one that it belongs to, or two that exclude each other.
    """
    given = {name for name, value in vars(options).items() if value is not None}
    if options.image is None:
        for name in NEEDS_IMAGE:
            if name in given:
                raise ValueError(f"--{name}: there is no picture to start from; give --image FILE")
    if not {"mask", "extend"} & given:
        for name in NEEDS_MASK:
            if name in given:
                raise ValueError(f"--{name}: the whole picture is drawn; give --mask FILE or --extend L,T,R,B")
    if "vary" in given and {"mask", "extend", "strength"} & given:
        raise ValueError("--vary: it draws the whole picture anew; leave --strength, --mask and --extend out")
    ends, variation = {"to_prompt", "to_seed"} & given, {"variation_seed", "variation_strength"} & given
    if "frames" in given and not ends:
        raise ValueError("--frames: there is nowhere to go; give --to-prompt or --to-seed")
    if ends and (variation or options.count != 1):
        raise ValueError("--to-prompt, --to-seed: they draw --frames pictures; leave --count and variations out")
    if ends and (options.frames or FRAMES) < 2:
        raise ValueError(f"--frames: {options.frames}; at least 2, the two ends")
    if variation == {"variation_strength"}:
        raise ValueError("--variation-strength: there is no noise to mix in; give --variation-seed")
    for name in ("to_seed", "variation_seed"):
        if name in given and not 0 <= getattr(options, name) <= LARGEST_SEED - options.count:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(options, name)} is outside 0 to 2^63 - 1")


def start_of(options: argparse.Namespace, model: Model) -> Start | None:
    """The picture that the options start from, read and fitted; None: they name none.

    Raises:
        ValueError: a file cannot be read, the mask has another size, or the picture is too large to be drawn.
    """
    if options.image is None:
        return None
    canvas = _masked(options, model) if options.mask or options.extend else _fitted(options, model)
    partial = canvas.mask is not None or options.vary is not None
    return Start(
        canvas=canvas,
        strength=(1.0 if partial else STRENGTH) if options.strength is None else options.strength,
        vary=options.vary,
        resample=1 if options.resample is None else options.resample,
    )


def blend_of(options: argparse.Namespace) -> Blend | None:
    """What the options put between two prompts or seeds; None: nothing."""
    if options.variation_seed is not None:
        strength = VARIATION if options.variation_strength is None else options.variation_strength
        seeds = range(options.variation_seed, options.variation_seed + options.count)
        return Blend(share=(strength,) * options.count, seeds=tuple(seeds))
    if options.to_prompt is None and options.to_seed is None:
        return None
    n = options.frames or FRAMES
    prompts = None if options.to_prompt is None else (options.to_prompt,) * n
    seeds_there = None if options.to_seed is None else (options.to_seed,) * n
    return Blend(share=tuple(i / (n - 1) for i in range(n)), prompts=prompts, seeds=seeds_there)


def _fitted(options: argparse.Namespace, model: Model) -> Canvas:
    """The whole picture is drawn: at the size that is asked for, or near the model's own in its own proportions."""
    picture = read_picture(options.image)
    return Canvas(_pixels(ImageOps.fit(picture, _size(options, model, picture), PilImage.Resampling.LANCZOS)))


def _size(options: argparse.Namespace, model: Model, picture: PilImage.Image) -> tuple[int, int]:
    """(width, height): multiples of the network's unit with about the area of a picture of the model's own size."""
    unit, side = model.unit, model.config.sample.size
    scale = (side**2 / (picture.width * picture.height)) ** 0.5
    near = [max(1, round(length * scale / unit)) * unit for length in picture.size]
    asked = options.width or near[0], options.height or near[1]
    for name, length in zip(("width", "height"), asked, strict=True):
        if length < unit or length % unit:
            raise ValueError(f"--{name}: {length} is not possible with this model; give a multiple of {unit} pixels")
    return asked


def _masked(options: argparse.Namespace, model: Model) -> Canvas:
    """Part of the picture is kept to the pixel, so it stays at its own size, or is fitted to the size asked for."""
    picture = read_picture(options.image)
    mask = None if options.mask is None else _read_mask(options, picture)
    if options.width or options.height:
        size = _size(options, model, picture)
        picture = ImageOps.fit(picture, size, PilImage.Resampling.LANCZOS)
        mask = None if mask is None else ImageOps.fit(mask, size, PilImage.Resampling.LANCZOS)
    drawn = None if mask is None else torch.from_numpy(np.array(mask.point(lambda v: 255 * (v >= 128)))) > 0
    left, top, right, bottom = _margins(options.extend) if options.extend else (0, 0, 0, 0)
    width, height = picture.width + left + right, picture.height + top + bottom
    if height * width > LARGEST:
        raise ValueError(
            f"{options.image}: {width}x{height} pixels are too many to be drawn; give --width and --height to fit it to"
        )
    canvas = Canvas(_pixels(picture), drawn, FEATHER if options.feather is None else options.feather)
    return canvas.extended(left, top, right, bottom) if options.extend else canvas


def _read_mask(options: argparse.Namespace, picture: PilImage.Image) -> PilImage.Image:
    mask = read_picture(options.mask)
    if mask.mode == "RGBA":
        if np.asarray(mask)[..., 3].min() < 255:
            raise ValueError(f"{options.mask}: parts of it are transparent; a mask is white to draw and black to keep")
        mask = mask.convert("RGB")
    if mask.size != picture.size:
        sizes = [f"{p.width}x{p.height}" for p in (mask, picture)]
        raise ValueError(
            f"{options.mask}: {sizes[0]} pixels, but {options.image} has {sizes[1]}; make the mask as large"
        )
    return mask.convert("L")


def _margins(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (int(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"--extend: '{text}' is not LEFT,TOP,RIGHT,BOTTOM in pixels, e.g. 0,0,64,0") from error
    if min(left, top, right, bottom) < 0 or not left + top + right + bottom:
        raise ValueError(f"--extend: '{text}' adds nothing; give pixels of 0 or more, one of them above 0")
    return left, top, right, bottom


def _pixels(picture: PilImage.Image) -> Tensor:
    """RGB or RGBA to (3, h, w), 8 bits; what can be seen through lies on white, as in training."""
    if picture.mode == "RGBA":
        picture = PilImage.alpha_composite(PilImage.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
