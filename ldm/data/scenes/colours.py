"""Colours by name: what each looks like, and a thing painted in one while its shading stays."""

import random
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

RGB = tuple[int, int, int]  # sRGB, 0 to 255
Plane = Float[np.ndarray, "h w"]

# A typical shade of each name. Things and grounds have their own: a ground is paler, so that things stand out.
COLOURS: dict[str, RGB] = {
    "red": (216, 44, 46),
    "orange": (242, 138, 32),
    "yellow": (248, 208, 52),
    "green": (62, 158, 78),
    "blue": (48, 116, 222),
    "purple": (134, 72, 196),
    "pink": (244, 130, 182),
    "brown": (126, 80, 48),
    "black": (38, 38, 44),
    "white": (244, 244, 246),
    "grey": (146, 148, 154),
}
GROUNDS: dict[str, RGB] = {
    "white": (255, 255, 255),
    "black": (24, 24, 28),
    "grey": (160, 163, 168),
    "red": (214, 72, 68),
    "orange": (246, 160, 84),
    "yellow": (248, 211, 92),
    "green": (96, 176, 112),
    "blue": (88, 144, 216),
    "purple": (156, 116, 206),
    "pink": (245, 176, 200),
    "brown": (150, 112, 82),
}
SPELLINGS = {"grey": ("grey", "gray"), "purple": ("purple", "purple", "violet")}
HUE_WIDTH = 45.0  # degrees around the main hue that count as the thing's colour
SATURATED = 0.15  # below this a pixel has no hue to speak of


@dataclass(frozen=True, kw_only=True)
class Hue:
    """The main colour of a picture of a thing.

    Attributes:
        degrees: the hue, in [0, 360).
        share: part of the opaque area that has it, in [0, 1].
        lightness: median lightness of that part, in [0, 1].
        saturation: median saturation of that part, in [0, 1].
    """

    degrees: float
    share: float
    lightness: float
    saturation: float


def hsl(rgb: UInt8[np.ndarray, "h w 3"]) -> tuple[Plane, Plane, Plane]:
    """Hue in degrees, saturation and lightness in [0, 1] of sRGB pixels (the usual double cone)."""
    values = rgb.astype(np.float32) / 255
    most, least = values.max(-1), values.min(-1)
    lightness, chroma = (most + least) / 2, most - least
    saturation = np.where(chroma > 1e-6, chroma / np.maximum(1 - np.abs(2 * lightness - 1), 1e-3), 0).clip(0, 1)
    red, green, blue = np.moveaxis(values, -1, 0)
    safe = np.maximum(chroma, 1e-6)
    of_red, of_green, of_blue = (green - blue) / safe % 6, (blue - red) / safe + 2, (red - green) / safe + 4
    hue = np.where(most == red, of_red, np.where(most == green, of_green, of_blue)) * 60
    return hue % 360, saturation, lightness


def rgb_of(hue: Plane, saturation: Plane, lightness: Plane) -> Float[np.ndarray, "h w 3"]:
    """sRGB in [0, 1] of hue in degrees, saturation and lightness: the inverse of `hsl`."""
    offsets = np.array([0.0, 8.0, 4.0], np.float32)
    place = (offsets + hue[..., None] / 30) % 12
    reach = (saturation * np.minimum(lightness, 1 - lightness))[..., None]
    return lightness[..., None] - reach * np.clip(np.minimum(place - 3, 9 - place), -1, 1)


def main_hue(rgba: UInt8[np.ndarray, "h w 4"]) -> Hue:
    """The hue that most of a picture has, and how much of it."""
    hue, saturation, lightness = hsl(rgba[..., :3])
    alpha = rgba[..., 3] / 255
    weight = alpha * saturation * ((lightness > 0.1) & (lightness < 0.96))
    histogram = np.histogram(hue, 36, (0, 360), weights=weight)[0]
    degrees = (int((histogram + np.roll(histogram, 1) + np.roll(histogram, -1)).argmax()) + 0.5) * 10
    mask = _mask(hue, saturation, degrees) > 0.5
    inside = mask & (alpha > 0.5)
    if not inside.any():
        return Hue(degrees=degrees, share=0.0, lightness=0.5, saturation=0.0)
    return Hue(
        degrees=degrees,
        share=float((mask * alpha).sum() / max(alpha.sum(), 1e-6)),
        lightness=float(np.median(lightness[inside])),
        saturation=float(np.median(saturation[inside])),
    )


def recolour(rgba: UInt8[np.ndarray, "h w 4"], of: Hue, to: RGB) -> UInt8[np.ndarray, "h w 4"]:
    """Give the part that has the main hue another colour.

    The median of that part becomes `to`; lighter and darker pixels keep their distance to white and black, so that
    shading stays. The edge of the part is soft in hue and saturation, so that no holes appear.

    Args:
        rgba: the thing, straight alpha.
        of: its main hue, from `main_hue`.
        to: the new colour.

    Returns:
        The recoloured picture; alpha is unchanged.
    """
    hue, saturation, lightness = hsl(rgba[..., :3])
    mask = _mask(hue, saturation, of.degrees)[..., None]
    target = np.array(to, np.uint8)[None, None]
    to_hue, to_saturation, to_lightness = (float(plane[0, 0]) for plane in hsl(target))
    low, high = max(of.lightness, 1e-3), max(1 - of.lightness, 1e-3)
    darker, lighter = to_lightness * lightness / low, 1 - (1 - to_lightness) * (1 - lightness) / high
    relit = np.where(lightness <= of.lightness, darker, lighter).clip(0, 1)
    if to_saturation > 0.08:
        kept = 0.6 + 0.4 * saturation / max(of.saturation, 1e-3)
        resaturated = np.clip(to_saturation * kept, 0, 1)
    else:
        resaturated = np.full_like(saturation, to_saturation)
    painted = rgb_of(np.full_like(hue, to_hue), resaturated, relit)
    mixed = mask * painted + (1 - mask) * rgba[..., :3] / 255
    return np.concatenate([(mixed * 255).round().clip(0, 255).astype(np.uint8), rgba[..., 3:]], -1)


def shade(colour: RGB, rng: random.Random, spread: float = 10.0) -> RGB:
    """A shade near a colour: a Gaussian step of `spread` of 255 in brightness and of half of that in each channel."""
    step = rng.gauss(0, spread)
    red, green, blue = (min(255, max(0, round(c + step + rng.gauss(0, spread / 2)))) for c in colour)
    return red, green, blue


def _mask(hue: Plane, saturation: Plane, degrees: float) -> Plane:
    """How much of each pixel has the hue `degrees`: 1 within `HUE_WIDTH`, falling to 0 over 15 degrees more."""
    distance = np.abs((hue - degrees + 180) % 360 - 180)
    near = np.clip((HUE_WIDTH + 15 - distance) / 15, 0, 1)
    return near * np.clip((saturation - SATURATED / 2) / (SATURATED / 2), 0, 1)
