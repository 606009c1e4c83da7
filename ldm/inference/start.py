"""Where a drawing starts: from noise, or from a picture that is kept in part."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.build import Model
from ldm.core.precision import autocast
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Image, Latent
from ldm.denoiser import Denoiser
from ldm.inference.blend import Blend, slerp
from ldm.inference.canvas import Canvas
from ldm.process.conditionals import q_sample
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim
from ldm.samplers.loop import per_image

INVERSION = 3  # evaluations for each step of an inversion: one is the usual, three are nearly exact


@dataclass(frozen=True, kw_only=True)
class Start:
    """A picture to start from, and how.

    Attributes:
        canvas: its pixels, and which of them are to be drawn.
        strength: share of the steps that are walked, from the level at which that share of them starts: of n steps
            round(n strength), but at least 1 and at most n - 1. 0 walks none and gives back the autoencoder's
            reconstruction, 1 walks all, of the picture only the level's last trace is left.
        vary: instead of `strength`, draw from the picture's own noise (DDIM inversion) of which this share, 0 to 1, is
            exchanged for that of the seed. None: not at all.
        resample: how often each step is walked, see `ldm.samplers.resampled`.
    """

    canvas: Canvas
    strength: float = 1.0
    vary: float | None = None
    resample: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength: {self.strength} is not in 0 (the picture itself) to 1 (nothing of it)")
        if self.vary is not None and not 0 <= self.vary <= 1:
            raise ValueError(f"vary: {self.vary} is not in 0 (the picture itself) to 1 (nothing of it)")
        if self.vary is not None and (self.strength < 1 or self.canvas.mask is not None):
            raise ValueError("vary: it draws the whole picture anew; leave strength and mask out")
        if self.resample < 1:
            raise ValueError(f"resample: {self.resample} is below 1; 1 walks each step once, 5 to 10 is usual")

    @property
    def whole(self) -> bool:
        """Whether every step of the grid is walked, once: what a sampler with levels of its own needs."""
        return self.strength == 1 and self.resample == 1

    @property
    def seen(self) -> Canvas:
        """What is shown of the picture: with strength 1 only what is kept, continued smoothly into the rest."""
        return self.canvas.filled() if self.strength == 1 else self.canvas

    def walked(self, grid: TimeGrid) -> TimeGrid | None:
        """The steps of `grid` that are walked; None: none.

        Raises:
            ValueError: the grid has one step, of which no part can be walked.
        """
        if self.strength in (0, 1):
            return grid if self.strength else None
        if len(grid) < 2:
            raise ValueError(f"strength: {self.strength} of 1 step is none or all of it; give 2 steps or more")
        count = min(max(1, int(len(grid) * self.strength + 0.5)), len(grid) - 1)
        return TimeGrid(grid.logsnr[len(grid) - count :])


@dataclass(frozen=True, eq=False)
class Encoded:
    """The canvas as the model sees it.

    Attributes:
        z: its latent (1, c, h, w).
        mask: which of it is to be drawn (1, 1, h, w); None: all.
        channels: what an inpainting network reads beside its input (1, 1 + c, h, w): the mask, and the latent of the
            picture without what is under it. None: this network reads no such thing.
    """

    z: Latent | None
    mask: Tensor | None
    channels: Tensor | None


def fills_in(model: Model) -> bool:
    """Whether the network was made for inpainting: it reads a mask and a masked latent beside its input."""
    net = model.config.net
    return model.guess is None and model.config.low is None and net.cond_channels == net.in_channels + 1


def encoded(model: Model, start: Start | None, size: tuple[int, int], unit: int) -> Encoded:
    """What `model` sees of the picture, or of none. Latents are the posterior's means: what it adds to them is noise.

    A latent is drawn if a single pixel of it is to be drawn; `Canvas.joined` lays the others over it again.

    Args:
        size: (height, width), pixels, for a drawing without a picture.
        unit: what the network's sides are multiples of.
    """
    image = torch.zeros(1, 3, *size) if start is None else start.seen.image(unit)
    drawn = torch.ones(1, 1, *size) if start is None else start.canvas.draws(unit)
    mask = F.max_pool2d(drawn, model.codec.factor).to(_device(model))
    channels = torch.cat([mask, _latent(model, image * (1 - drawn))], dim=1) if fills_in(model) else None
    if start is None:
        return Encoded(None, None, channels)
    return Encoded(_latent(model, image), None if start.canvas.mask is None else mask, channels)


def _latent(model: Model, image: Image) -> Latent:
    """Always in float32 and alone, so that it depends on nothing else that is drawn."""
    device = _device(model)
    with torch.inference_mode(), autocast(device, torch.float32):
        none = torch.zeros((1, *model.codec.latent_shape(*image.shape[2:])), device=device)
        return model.codec.encode(image.to(device), none)


def _device(model: Model) -> torch.device:
    return next(model.denoise.parameters()).device


def first(noise: NoiseStream, blend: Blend | None, shape: tuple[int, ...], like: Tensor) -> Latent:
    """The noise (b, *shape) that pictures start from, blended with that of the other seeds if there are any."""
    e = noise.normal((len(noise), *shape), like=like)
    if blend is None or blend.seeds is None:
        return e
    other = NoiseStream(blend.seeds).normal((len(noise), *shape), like=like)
    return slerp(e, other, blend.shares(e))


def begun(start: Start, seen: Encoded, e: Latent, grid: TimeGrid, denoise: Denoiser) -> Latent:
    """The latents at the first level of `grid`: the picture's, noised to it, or its own noise varied.

    With strength 1 nothing is to be seen of the picture where it is drawn, so that starts from noise alone; for a
    network that reads the picture beside its input, all of it does.

    Args:
        seen: the picture as the model sees it.
        e: noise (b, c, h, w).
        denoise: what will be drawn with.
    """
    assert seen.z is not None
    z = seen.z.expand_as(e)
    if start.vary is not None:
        own = ddim.invert(denoise, z, grid, iterations=INVERSION)
        return slerp(own, e, torch.full((len(e),), start.vary, device=e.device))
    noised = q_sample(z, e, per_image(float(grid.logsnr[0]), e))
    if seen.mask is None or start.strength < 1:
        return noised
    return e if seen.channels is not None else torch.where(seen.mask.to(e) == 1, e, noised)
