"""One icon to one RGBA picture: SVG by resvg, bitmaps by Pillow."""

import importlib.util
import io

from PIL import Image, UnidentifiedImageError


def check_renderer() -> None:
    """Fail early, and once, where there is nothing to render SVG with.

    Raises:
        ValueError: resvg_py is not installed.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise ValueError("resvg_py, which renders SVG, is not installed; install it with: pip install resvg_py")


def from_svg(svg: str, size: int) -> Image.Image:
    """Render an SVG document to (size, size) RGBA with straight alpha, centred, its aspect ratio kept.

    Raises:
        ValueError: the document does not parse, or draws nothing.
    """
    import resvg_py  # a compiled renderer that only this function needs

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, dpi=96, skip_system_fonts=True)
    except Exception as error:  # resvg_py raises bare exceptions of its own
        raise ValueError(f"the SVG does not render: {error}") from error
    return _checked(Image.open(io.BytesIO(bytes(png))), size)


def from_bitmap(data: bytes, size: int) -> Image.Image:
    """Decode any bitmap that Pillow reads and fit it to (size, size) RGBA, antialiased on premultiplied colour.

    Raises:
        ValueError: the bytes are no picture, or it shows nothing.
    """
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the picture does not decode: {error}") from error
    return _checked(picture, size)


def _checked(picture: Image.Image, size: int) -> Image.Image:
    """Fit into a transparent square; refuse an empty result."""
    picture = picture.convert("RGBA")
    if picture.size != (size, size):
        scale = size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        square = Image.new("RGBA", (size, size))
        resized = picture.resize((width, height), Image.Resampling.LANCZOS)  # Pillow premultiplies RGBA itself
        square.paste(resized, ((size - width) // 2, (size - height) // 2))
        picture = square
    if picture.getchannel("A").getextrema()[1] == 0:
        raise ValueError("the picture is fully transparent")
    return picture
