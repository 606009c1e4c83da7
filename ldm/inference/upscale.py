"""Enlarge pictures of any size by an upscaler: tile by tile, each through the pipeline that draws."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.build import Model
from ldm.core.rng import fold
from ldm.inference.lowres import LowRes, held_to
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.tiles import Tiling, tiling
from ldm.model_folder import load_model
from ldm.samplers.loop import OnStep

MOST_PIXELS = 2**26  # of a result


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """How to enlarge pictures.

    Attributes:
        prompts: what each shows; "" leaves it to the picture.
        seeds: one for each picture.
        factor: along each side, one that the model was trained for; None: the first of those.
        restore: mend the flaws of the small picture, e.g. of one that a model drew, rather than hold the result to it.
        noise: see `LowRes`.
        steps: network evaluations along the path; None: the model's own.
        scale: classifier-free guidance by the prompt; None: the model's own.
        batch: tiles computed together; changes memory and speed, not the pictures.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    factor: int | None = None
    restore: bool = False
    noise: float = 0.0
    steps: int | None = None
    scale: float | None = None
    batch: int = 8


def load_upscaler(path: str | Path) -> Model:
    """A model folder of an upscaler.

    Raises:
        BundleError: as `load_model`.
        ValueError: it is another kind of model.
    """
    model = load_model(path)
    if model.config.low is None:
        raise ValueError(f"model: {path} is no upscaler; use models/emoji-upscaler")
    return model


def upscale(
    model: Model,
    small: Float[Tensor, "b 3 h w"],
    how: Upscale,
    *,
    dtype: torch.dtype | None = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b 3 H W"]:
    """Enlarge pictures.

    Args:
        model: an upscaler.
        small: pictures (b, 3, h, w) in [-1, 1], of any size.
        how: and with which seeds.
        dtype: precision of the networks, see `txt2img`.
        on_step: told of every step of every batch of tiles.

    Returns:
        Pictures (b, 3, factor h, factor w) on the CPU, float32, in [-1, 1].

    Raises:
        ValueError: the model is no upscaler, or `how` is not possible with it.
    """
    factor = _factor(model, how.factor)
    height, width = small.shape[-2:]
    if factor**2 * height * width > MOST_PIXELS:
        raise ValueError(f"picture: {width}x{height} would become more than {MOST_PIXELS:,} pixels; give a smaller one")
    small = small.float().cpu()
    tiles = tiles_of(model, height, width, factor)
    cut = tiles.cut(small)
    request = Request(
        prompts=tuple(prompt for prompt in how.prompts for _ in range(len(tiles))),
        seeds=tuple(fold(seed, "tile", i) for seed in how.seeds for i in range(len(tiles))),
        steps=how.steps,
        scale=how.scale,
        height=factor * tiles.tile[0],
        width=factor * tiles.tile[1],
        low=LowRes(small=cut, noise=how.noise),
        batch=how.batch,
    )
    large = tiles.join(txt2img(model, request, dtype=dtype, on_step=on_step), factor)
    return large if how.restore else held_to(large, small)


def tiles_of(model: Model, height: int, width: int, factor: int | None = None) -> Tiling:
    """How a picture is cut for an upscaler.

    Args:
        model: an upscaler.
        height, width: of the small picture.
        factor: as in `Upscale`.

    Raises:
        ValueError: the model is no upscaler, or does not know the factor.
    """
    by, side = _factor(model, factor), model.config.sample.size
    return tiling(height, width, largest=side // by, unit=model.unit // math.gcd(model.unit, by))


def _factor(model: Model, factor: int | None) -> int:
    spec = model.config.low
    if spec is None:
        raise ValueError("model: it is no upscaler, whose configuration has 'low'")
    known = sorted({*spec.factors, *spec.redrawn})
    if factor is not None and factor not in known:
        raise ValueError(f"factor: {factor}, but this model was trained for {', '.join(map(str, known))}")
    return spec.factors[0] if factor is None else factor
