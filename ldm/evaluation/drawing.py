"""Captions that are drawn again and again from the same noise, and how far from the exact latents a sampler ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ldm.build import Model, build_grid, build_sampler
from ldm.config import SampleSpec
from ldm.core.rng import NoiseStream, fold
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser, bind
from ldm.evaluation.matched import rms
from ldm.samplers.tuned import Tuned


@dataclass(frozen=True, eq=False)
class Drawing:
    """Captions with their starting noise, and the network that draws them.

    Attributes:
        denoise: (x_t, logsnr) -> Denoised, for these captions, with guidance at all levels.
        plain: the same without guidance.
        x: standard normal latents (b, *d).
    """

    denoise: Denoiser
    plain: Denoiser
    x: Latent


def drawing(model: Model, captions: Sequence[str], scale: float, seed: int, name: str = "trajectory") -> Drawing:
    """`captions` ready to be drawn with a guidance scale; picture i has its own noise, of the stream `name`."""
    side = model.config.sample.size
    shape = model.codec.latent_shape(side, side)
    device = next(model.denoise.parameters()).device
    with torch.no_grad():
        cond, null = (model.condition(list(texts), shape[-2:]) for texts in (captions, [""] * len(captions)))
    noise = NoiseStream([fold(seed, name, i) for i in range(len(captions))])
    x = noise.normal((len(captions), *shape), like=torch.empty(0, device=device))
    return Drawing(model.guided(cond, null, scale, 1), bind(model.denoise, cond), x)


@torch.no_grad()
def distance_of(spec: SampleSpec, model: Model, drawn: Drawing, end: Latent, tuned: Tuned | None) -> float:
    """How far from `end` a sampler draws, root mean square over all numbers; guided at the levels that `spec` says."""
    grid = build_grid(spec, model.schedule, tuned)
    noise = NoiseStream(list(range(len(drawn.x))))
    denoise = spec.guidance.limited(drawn.denoise, drawn.plain)
    return rms(build_sampler(spec, tuned)(denoise, drawn.x, grid, noise) - end)
