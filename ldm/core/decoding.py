"""Picture files as people have them: any format and mode, upright, as 8-bit RGB or RGBA; else one line."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# Files of several pictures of which the first is the photograph: phones store previews and depth beside it.
FIRST_IS_THE_PICTURE = ("MPO",)


def read_picture(source: str | Path | BytesIO, name: str = "") -> Image.Image:
    """Decode a picture in any format that Pillow reads: upright, mode RGB, or RGBA if anything can be seen through.

    Sixteen-bit grey is scaled (Pillow alone clips it to white), palettes, grey and CMYK are converted, and the turn
    that a camera noted in EXIF is made.

    Args:
        source: a file, or the bytes of one.
        name: of the picture in messages; "": the path.

    Raises:
        ValueError: no such file, no picture, a damaged one, pixels without a fixed range (floating point, 32-bit
            integers), or several frames (which of them is meant cannot be known).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are still read, and of damage, which is refused in words
            with Image.open(source) as opened:
                frames = getattr(opened, "n_frames", 1)
                if frames > 1 and opened.format not in FIRST_IS_THE_PICTURE:
                    raise ValueError(f"it has {frames} frames; save the one you mean as a PNG")
                return _to_eight_bits(ImageOps.exif_transpose(opened))
    except Exception as error:  # a decoder says of a damaged file whatever occurs to it
        raise ValueError(f"{name or source}: the picture cannot be read: {error or type(error).__name__}") from error


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB or RGBA; 16-bit grey is scaled, where Pillow alone would clip it to white."""
    if picture.mode in ("F", "I"):
        raise ValueError("floating-point and 32-bit pixels have no fixed range; save it with 8 or 16 bits")
    if not picture.mode.startswith("I;16"):
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    grey, clear = np.asarray(picture), picture.info.get("transparency")
    found = Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if clear is not None:  # the one value that is seen through
        found.putalpha(Image.fromarray(np.where(grey == clear, 0, 255).astype(np.uint8)))
    return found
