"""From prompts to pictures: text, noise, path, guided denoiser, sampler, decoder. One pipeline for every task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ldm.build import Model, automatic, build_grid, build_sampler, build_tables
from ldm.config import MATCHED, SampleSpec
from ldm.core.precision import autocast
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Image
from ldm.denoiser import bind
from ldm.guidance.spec import GuidanceSpec
from ldm.inference.classified import ClassGuidance
from ldm.inference.lowres import LowRes, check
from ldm.inference.weaker import WeakModel
from ldm.process.grid import Spacing, TunedSpacing
from ldm.samplers.loop import OnStep


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw. A field that is None is the model's own default.

    Attributes:
        prompts: one per picture.
        seeds: one per picture; a seed gives the same picture in any batch.
        negative: what to move away from; "" is the unconditional model.
        steps: network evaluations along the path, 1 to the schedule's T.
        scale: classifier-free guidance, the lecture's gamma: 0 ignores the prompt, 1 is the plain conditional model,
            more pushes away from `negative`.
        sampler: a name of `ldm.samplers.SAMPLERS`.
        options: of the sampler, e.g. {"eta": 1.0}; they replace the model's.
        spacing: how the levels are spread.
        guidance: the rule of guidance and its levels.
        height, width: pixels, divisible by the model's latent factor and what its U-Net needs.
        towards: a class to steer to beside the prompt; None: none.
        away: a weaker model to move away from (autoguidance); None: none.
        low: the small pictures that an upscaler enlarges to height x width; None: not for an upscaler.
        batch: pictures computed together; changes memory and speed, not the pictures.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative: str = ""
    steps: int | None = None
    scale: float | None = None
    sampler: str | None = None
    options: Mapping[str, float | str] | None = None
    spacing: Spacing | TunedSpacing | None = None
    guidance: GuidanceSpec | None = None
    height: int | None = None
    width: int | None = None
    towards: ClassGuidance | None = None
    away: WeakModel | None = None
    low: LowRes | None = None
    batch: int = 8

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.seeds):
            raise ValueError(f"seeds: {len(self.seeds)} for {len(self.prompts)} prompts; give one seed for each prompt")
        if self.batch < 1:
            raise ValueError(f"batch: {self.batch}; at least 1 picture is computed at a time")


def resolve(model: Model, request: Request) -> SampleSpec:
    """The model's defaults with what the request changes.

    A request that names neither sampler nor path nor guidance gets those that were measured to be the best for its
    number of steps, if they were (`ldm.build.automatic`).

    Raises:
        ValueError: guidance scale is negative, steps outside 1 to T, or the measured tables cannot be used.
    """
    changes = {name: getattr(request, name) for name in ("steps", "scale", "sampler", "spacing", "guidance")}
    given = {name: value for name, value in changes.items() if value is not None}
    if given.get("sampler") == MATCHED or given.get("spacing") == MATCHED:
        given |= {"sampler": MATCHED, "spacing": MATCHED, "options": {}}
    spec = replace(model.config.sample, **given)
    if request.options is not None or spec.sampler != model.config.sample.sampler:
        spec = replace(spec, options=dict(request.options or {}))
    if not 1 <= spec.steps <= model.schedule.steps:
        raise ValueError(f"steps: {spec.steps} is not in 1..{model.schedule.steps}, the schedule's own number of steps")
    if (request.sampler, request.options, request.spacing, request.guidance) == (None,) * 4:
        spec = automatic(spec, model)
    if spec.scale < 0:
        raise ValueError(f"scale: {spec.scale} is negative; 0 ignores the prompt, 1 follows it, 3 to 8 exaggerate it")
    return spec


def txt2img(
    model: Model, request: Request, *, dtype: torch.dtype | None = None, on_step: OnStep | None = None
) -> Image:
    """Draw `request.prompts`.

    Args:
        model: from `load_model`.
        request: what to draw.
        dtype: precision of the network and the decoder; levels and latents stay float32. None: bfloat16 where the
            device is faster in it, else float32.
        on_step: told of every step of every batch.

    Returns:
        Pictures (b, 3, height, width) on the CPU, float32, in [-1, 1].

    Raises:
        ValueError: steps, size, scale or options are not possible, tuned tables are asked for and missing, or the
            result is not finite in float32 either.
    """
    spec = resolve(model, request)
    check(model, request.low, len(request.prompts))
    if request.negative and model.config.net.distilled is not None:
        raise ValueError(
            "negative: this model was distilled with the empty prompt; use its teacher for negative prompts"
        )
    height, width = (spec.size if side is None else side for side in (request.height, request.width))
    shape = _latent_shape(model, height, width)
    tables = build_tables(spec, model)
    grid, sample = build_grid(spec, model.schedule, tables), build_sampler(spec, tables)
    device = next(model.denoise.parameters()).device
    pictures = []
    for start in range(0, len(request.prompts), request.batch):
        rows = slice(start, start + request.batch)
        prompts, noise = request.prompts[rows], NoiseStream(request.seeds[rows])
        with torch.inference_mode(), autocast(device, dtype):
            cond = model.condition(prompts, shape[-2:])
            null = model.condition([request.negative] * len(prompts), shape[-2:])
            low = None if request.low is None else request.low.seen(model, rows, height, width, noise)
            if low is not None:
                cond, null = low.into(cond), low.into(null)
            guided = model.guided(cond, null, spec.scale, spec.steps, spec.guidance.combine(spec.scale))
            if model.config.net.distilled is None:
                guided = spec.guidance.limited(guided, bind(model.denoise, cond))
            if request.away is not None:
                guided = request.away.around(guided, prompts, shape[-2:])
            if request.towards is not None:
                guided = request.towards.around(guided, len(prompts), device)
            x = noise.normal((len(prompts), *shape), like=torch.empty(0, device=device))
            z = sample(guided, x, grid, noise, on_step=on_step)
            if low is not None:
                z = low.corrected(z)
        pictures.append(_decode(model, z, dtype))
    return torch.cat(pictures)


def _decode(model: Model, z: torch.Tensor, dtype: torch.dtype | None) -> Image:
    """Decode; where narrow arithmetic overflowed, once more in float32, so that no black picture is returned."""
    decoders: list[Callable[[], torch.autocast]] = [
        lambda: autocast(z.device, dtype),
        lambda: autocast(z.device, torch.float32),
    ]
    for context in decoders:
        with torch.inference_mode(), context():
            image = model.codec.decode(z).float().cpu()
        if torch.isfinite(image).all():
            return image.clamp(-1, 1)
    raise ValueError("the decoder gave values that are not finite, in float32 too; the weights are damaged")


def _latent_shape(model: Model, height: int, width: int) -> tuple[int, int, int]:
    unit = model.codec.factor * 2 ** (len(model.config.net.mult) - 1)
    for name, side in (("height", height), ("width", width)):
        if side < unit or side % unit:
            raise ValueError(f"{name}: {side} is not possible with this model; give a multiple of {unit} pixels")
    return model.codec.latent_shape(height, width)
