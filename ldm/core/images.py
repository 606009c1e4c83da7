"""Pixels: between 8-bit pictures and floats in [-1, 1], and PNG files that remember how they were made."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ldm.core.bundle import write_atomically
from ldm.core.shapes import Image


def to_float(pixels: Tensor) -> Image:
    """8-bit pixels (b, 3, h, w), uint8, to floats in [-1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1.0


def to_uint8(image: Image) -> Tensor:
    """Floats in [-1, 1] (values outside are clipped) to 8-bit pixels, rounded to nearest."""
    return ((image.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)


def resized(image: Image, height: int, width: int) -> Float[Tensor, "b c {height} {width}"]:
    """`interpolated`, clipped to [-1, 1]."""
    return interpolated(image, height, width).clamp(-1, 1)


def interpolated(image: Image, height: int, width: int) -> Float[Tensor, "b c {height} {width}"]:
    """Bicubic interpolation to `height` x `width`, antialiased where it shrinks: linear in the pixels.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -1/2.
    """
    # without antialias torch takes a = -3/4
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True)


def grid(images: Image, columns: int, padding: int = 2) -> Tensor:
    """Lay pictures (b, 3, h, w) out row by row on white as one picture (3, H, W), floats in [-1, 1]."""
    b, c, h, w = images.shape
    rows = -(-b // columns)
    sheet = images.new_ones(c, rows * (h + padding) + padding, columns * (w + padding) + padding)
    for i in range(b):
        top, left = padding + (i // columns) * (h + padding), padding + (i % columns) * (w + padding)
        sheet[:, top : top + h, left : left + w] = images[i]
    return sheet


def save_png(
    image: Tensor, path: str | Path, recipe: dict[str, Any] | None = None, texts: Mapping[str, str] | None = None
) -> None:
    """Write one picture (3, h, w) in [-1, 1] as a PNG, atomically, with `recipe` as JSON in its text chunk "ldm".

    Args:
        texts: further text chunks by name, for other programs.

    Raises:
        ValueError: the picture has a value that is not finite (a black picture is never saved in silence).
        OSError: the folder is missing or not writable, or the disk is full; no half-written file stays.
    """
    from PIL import Image as PilImage
    from PIL.PngImagePlugin import PngInfo

    if not torch.isfinite(image).all():
        raise ValueError(f"{path}: the picture has values that are not finite; try --dtype float32")
    info = PngInfo()
    if recipe is not None:
        info.add_itxt("ldm", json.dumps(recipe, ensure_ascii=False))
    for name, text in (texts or {}).items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    array = np.ascontiguousarray(to_uint8(image[None])[0].permute(1, 2, 0).cpu().numpy())
    PilImage.fromarray(array).save(buffer, format="png", pnginfo=info)
    write_atomically(Path(path), buffer.getvalue())
