"""The picture that a drawing starts from: its size for the network, what is to be drawn, and how the two are joined."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ldm.core.images import to_float
from ldm.core.shapes import Image

SWEEPS = 12  # relaxations at each size
NEIGHBOURS = torch.tensor([[0, 0.25, 0], [0.25, 0, 0.25], [0, 0.25, 0]])
Share = Float[Tensor, "1 1 h w"]
Padded = Float[Tensor, "b c padded_h padded_w"]


@dataclass(frozen=True, eq=False)
class Canvas:
    """Pixels, and which of them are to be drawn.

    Attributes:
        pixels: (3, h, w), 8 bits: what is kept comes back as exactly these.
        mask: (h, w), True where to draw; None: everywhere, and nothing is pasted back.
        feather: pixels inside the mask over which what is drawn fades in, 0 or more.
    """

    pixels: UInt8[Tensor, "3 h w"]
    mask: Bool[Tensor, "mask_h mask_w"] | None = None
    feather: int = 0

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.shape != self.pixels.shape[1:]:
            (h, w), (height, width) = self.mask.shape, self.pixels.shape[1:]
            raise ValueError(f"mask: {w}x{h} pixels for a picture of {width}x{height}; make them the same size")
        if self.mask is not None and not bool(self.mask.any()):
            raise ValueError("mask: nothing in it is white, so there is nothing to draw; white is drawn, black is kept")
        if self.feather < 0:
            raise ValueError(f"feather: {self.feather} is negative; it is a width in pixels")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def extended(self, left: int, top: int, right: int, bottom: int) -> "Canvas":
        """A larger canvas with this one in it; the new margins are to be drawn.

        Raises:
            ValueError: a margin is negative.
        """
        if min(left, top, right, bottom) < 0:
            raise ValueError(f"extend: {left},{top},{right},{bottom} has a negative margin; give pixels to add")
        sides, (h, w) = (left, right, top, bottom), self.size
        old = torch.zeros(h, w, dtype=torch.bool) if self.mask is None else self.mask
        mask = F.pad(old, sides, value=True)
        return replace(self, pixels=F.pad(self.pixels, sides), mask=mask).filled()

    def filled(self) -> "Canvas":
        """The same with colours that continue what is kept where there is to be drawn: across the seam each pixel those
        next to it, so that nothing of what lies elsewhere shows through; farther inside smoothly.
        """
        if self.mask is None:
            return self
        image, known = self.pixels[None].float(), 1 - self.mask[None, None].float()
        for _ in range(self.feather):
            image, known = grown(image, known)
        smooth = continued(image, known)[0].round().clamp(0, 255)
        return replace(self, pixels=torch.where(self.mask, smooth.to(torch.uint8), self.pixels))

    def image(self, unit: int) -> Image:
        """The picture (1, 3, H, W) in [-1, 1], its last column and row repeated up to multiples of `unit`."""
        return F.pad(to_float(self.pixels[None]), self._missing(unit), mode="replicate")

    def draws(self, unit: int) -> Share:
        """What is to be drawn of `image(unit)` (1, 1, H, W): 1 for yes, 0 for no."""
        if self.mask is None:
            return torch.ones(1, 1, *self.image(unit).shape[2:])
        return F.pad(self.mask[None, None].float(), self._missing(unit), mode="replicate")

    def joined(self, drawn: Padded) -> Image:
        """What was drawn (b, 3, H, W), cut to the picture's size, with what is kept laid over it."""
        h, w = self.size
        drawn = drawn[..., :h, :w]
        if self.mask is None:
            return drawn
        kept = to_float(self.pixels[None]).to(drawn)
        mixed = torch.lerp(kept, drawn, self.share().to(drawn))
        return torch.where(self.mask.to(drawn.device), mixed, kept)

    def share(self) -> Share:
        """How much of each pixel is drawn: 0 outside of the mask, rising to 1 over `feather` pixels inside."""
        assert self.mask is not None
        kept = 1 - self.mask[None, None].float()
        rings = [kept]
        for _ in range(self.feather):
            rings.append(F.max_pool2d(rings[-1], 3, stride=1, padding=1))
        return 1 - torch.stack(rings).mean(0)

    def _missing(self, unit: int) -> tuple[int, int, int, int]:
        h, w = self.size
        return 0, -w % unit, 0, -h % unit


def grown(image: Image, known: Share) -> tuple[Image, Share]:
    """What is known (0 or 1), one pixel larger: a new pixel is the mean of its known neighbours."""
    weight = F.avg_pool2d(known, 3, stride=1, padding=1)
    mean = F.avg_pool2d(image * known, 3, stride=1, padding=1) / weight.clamp(min=1e-12)
    return torch.where(known > 0, image, mean), (weight > 0).to(known)


def continued(image: Image, known: Share) -> Image:
    """`image` where `known` is more than 0, and elsewhere about the smoothest colours that meet it: Laplace's equation.

    Means over ever larger squares, each of what is known in it, until all is known; then back, finer and finer, each
    time relaxed towards the mean of the four neighbours. Nothing flows over the picture's own edge.

    Source: pull-push, Gortler et al. 1996, "The Lumigraph", section 3.4; relaxed as in a multigrid solver.

    Args:
        image: (b, c, h, w).
        known: (1, 1, h, w), weights, 0 for what is not known.
    """
    if bool((known > 0).all()) or max(image.shape[2:]) == 1:
        return image
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(image * known, 2, ceil_mode=True) / weight.clamp(min=1e-12)
    fine = F.interpolate(continued(mean, weight), size=image.shape[2:], mode="bilinear", align_corners=False)
    channels = image.shape[1]
    mean_of_four = NEIGHBOURS.to(image).expand(channels, 1, 3, 3)
    for _ in range(SWEEPS):
        around = F.conv2d(F.pad(fine, (1, 1, 1, 1), mode="replicate"), mean_of_four, groups=channels)
        fine = torch.where(known > 0, image, around)
    return fine
