"""From prompts to pictures: text, noise, path, guided denoiser, sampler, decoder. One pipeline for every task."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat

import torch

from ldm.build import Model, automatic, build_grid, build_sampler, build_tables
from ldm.config import MATCHED, SampleSpec
from ldm.core.precision import autocast, narrow
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Image
from ldm.denoiser import Denoiser, bind
from ldm.guidance.known import keep_known
from ldm.guidance.spec import GuidanceSpec
from ldm.inference.blend import Blend
from ldm.inference.classified import ClassGuidance
from ldm.inference.conditions import condition, needed_chunks
from ldm.inference.lowres import LowRes, check
from ldm.inference.start import Encoded, Start, begun, encoded, first
from ldm.inference.weaker import WeakModel
from ldm.nets.cond import Cond
from ldm.nets.low import Low
from ldm.process.grid import Spacing, TimeGrid, TunedSpacing
from ldm.samplers.loop import OnStep, Sampler
from ldm.samplers.resampled import resampled

LARGEST_SEED, LARGEST_SCALE = 2**63 - 1, 1000


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
        start: a picture to start from; None: noise alone. Its size is the size that is drawn.
        blend: another end of prompts and noise, and how far each picture is on the way there; None: no other.
        only: draw this one of the pictures alone, in the batch that it has among all; None: all of them.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative: str = ""
    steps: int | None = None
    scale: float | None = None
    sampler: str | None = None
    options: Mapping[str, float | str | bool] | None = None
    spacing: Spacing | TunedSpacing | None = None
    guidance: GuidanceSpec | None = None
    height: int | None = None
    width: int | None = None
    towards: ClassGuidance | None = None
    away: WeakModel | None = None
    low: LowRes | None = None
    batch: int = 8
    start: Start | None = None
    blend: Blend | None = None
    only: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.seeds):
            raise ValueError(f"seeds: {len(self.seeds)} for {len(self.prompts)} prompts; give one seed for each prompt")
        if self.batch < 1:
            raise ValueError(f"batch: {self.batch}; at least 1 picture is computed at a time")
        if self.start is not None and (self.height, self.width) != (None, None):
            raise ValueError(
                "height, width: the picture to start from has a size of its own; fit it, and leave them out"
            )
        if self.blend is not None and len(self.blend.share) != len(self.prompts):
            raise ValueError(
                f"blend: {len(self.blend.share)} shares for {len(self.prompts)} prompts; give one for each"
            )
        if self.only is not None and not 0 <= self.only < len(self.prompts):
            raise ValueError(f"only: {self.only} is none of the pictures 0 to {len(self.prompts) - 1}")

    def part(self, rows: slice) -> "Request":
        """The same for some of the pictures."""
        blend = None if self.blend is None else self.blend.part(rows)
        low = None if self.low is None else replace(self.low, small=self.low.small[rows])
        only = None if self.only is None else self.only - rows.start
        return replace(self, prompts=self.prompts[rows], seeds=self.seeds[rows], blend=blend, low=low, only=only)

    def on(self, device: torch.device) -> "Request":
        """The same with the other networks that take part on a device; a classifier is moved where it is."""
        if self.towards is not None:
            self.towards.classifier.net.to(device)
        away = None if self.away is None else replace(self.away, model=self.away.model.to(device))
        return replace(self, away=away)


def parts(model: Model, request: Request) -> Iterator[tuple[Request, int]]:
    """What is computed together: requests of at most `batch` pictures whose prompts are equally long for the encoder,
    and in how many chunks it reads each of them. If one picture alone is to be drawn, only its part.
    """
    there = request.prompts if request.blend is None or request.blend.prompts is None else request.blend.prompts
    lengths = {trio: needed_chunks(model, *trio) for trio in set(zip(request.prompts, there, repeat(request.negative)))}
    chunks = [lengths[trio] for trio in zip(request.prompts, there, repeat(request.negative))]
    begin = 0
    while begin < len(chunks):
        end = begin
        while end < min(begin + request.batch, len(chunks)) and chunks[end] == chunks[begin]:
            end += 1
        if request.only is None or begin <= request.only < end:
            yield request.part(slice(begin, end)), chunks[begin]
        begin = end


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
    whole = request.start is None or request.start.whole
    if (request.sampler, request.options, request.spacing, request.guidance) == (None,) * 4:
        spec = automatic(spec, model, whole=whole)
    if spec.sampler == MATCHED and not whole:
        raise ValueError(
            "sampler: 'matched' walks the whole of its own path once; name another for strength or resample"
        )
    if not 0 <= spec.scale <= LARGEST_SCALE:
        why = "negative" if spec.scale < 0 else f"above {LARGEST_SCALE}"
        raise ValueError(f"scale: {spec.scale} is {why}; 0 ignores the prompt, 1 follows it, 3 to 8 exaggerate it")
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
        ValueError: steps, size, scale or options are not possible, tuned tables are asked for and missing, the network
            gave values that are not finite, or the decoder did in float32 too.
    """
    plan = _plan(model, request)
    pictures = []
    for part, chunks in parts(model, request):
        with torch.inference_mode(), autocast(plan.like.device, dtype):
            z = _latents(model, part, plan, chunks, on_step)
        drawn = _decode(model, z, dtype)
        pictures.append(drawn if part.only is None else drawn[part.only : part.only + 1])
    images = torch.cat(pictures)
    return images if request.start is None else request.start.seen.joined(images)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What all pictures of a request share."""

    spec: SampleSpec
    grid: TimeGrid | None  # None: no step is walked
    sample: Sampler
    shape: tuple[int, int, int]
    encoded: Encoded
    like: torch.Tensor  # float32, on the device


def _plan(model: Model, request: Request) -> _Plan:
    spec = resolve(model, request)
    check(model, request.low, len(request.prompts))
    if request.negative and model.config.net.distilled is not None:
        raise ValueError(
            "negative: this model was distilled with the empty prompt; use its teacher for negative prompts"
        )
    tables = build_tables(spec, model)
    grid: TimeGrid | None = build_grid(spec, model.schedule, tables)
    sample = build_sampler(spec, tables)
    start, unit = request.start, model.unit
    if start is None:
        size = checked_size(request, spec, unit)
    else:
        assert grid is not None
        size = (0, 0)
        grid, sample = start.walked(grid), resampled(sample, start.resample)
    seen = encoded(model, start, size, unit)
    c, *sides = model.codec.latent_shape(*size) if seen.z is None else seen.z.shape[1:]
    like = torch.empty(0, device=next(model.denoise.parameters()).device)
    return _Plan(spec, grid, sample, (c, sides[0], sides[1]), seen, like)


def _latents(model: Model, part: Request, plan: _Plan, chunks: int, on_step: OnStep | None) -> torch.Tensor:
    """The clean latents of one batch."""
    seen, start, noise = plan.encoded, part.start, NoiseStream(part.seeds)
    if plan.grid is None:
        assert seen.z is not None
        return seen.z.expand(len(part.prompts), *plan.shape)
    factor = model.codec.factor
    size = factor * plan.shape[1], factor * plan.shape[2]
    low = None if part.low is None else part.low.seen(model, slice(None), *size, noise)
    denoise = _denoiser(model, part, plan, chunks, low)
    x = first(noise, part.blend, plan.shape, plan.like)
    if start is not None:
        x = begun(start, seen, x, plan.grid, denoise)
    z = plan.sample(denoise, x, plan.grid, noise, on_step=on_step)
    return z if low is None else low.corrected(z)


def _denoiser(model: Model, part: Request, plan: _Plan, chunks: int, low: Low | None) -> Denoiser:
    """The network with its prompts, all guidance, and what is known of the result."""
    spec, seen, count, size = plan.spec, plan.encoded, len(part.prompts), plan.shape[-2:]

    def asked(reader: Model) -> Cond:
        return condition(reader, part.prompts, size, blend=part.blend, chunks=chunks)

    cond, null = asked(model), condition(model, [part.negative] * count, size, chunks=chunks)
    if seen.channels is not None:
        beside = seen.channels.expand(count, -1, -1, -1)
        cond, null = replace(cond, channels=beside), replace(null, channels=beside)
    if low is not None:
        cond, null = low.into(cond), low.into(null)
    guided = model.guided(cond, null, spec.scale, spec.steps, spec.guidance.combine(spec.scale))
    if model.config.net.distilled is None:
        guided = spec.guidance.limited(guided, bind(model.denoise, cond))
    if part.away is not None:
        guided = part.away.around(guided, asked)
    if part.towards is not None:
        guided = part.towards.around(guided, count, plan.like.device)
    if seen.z is not None and seen.mask is not None and seen.channels is None:
        guided = keep_known(guided, seen.z.expand(count, *plan.shape), seen.mask)
    return guided


def _decode(model: Model, z: torch.Tensor, dtype: torch.dtype | None) -> Image:
    """Decode; where narrow arithmetic overflowed, once more in float32, so that no black picture is returned."""
    if not bool(torch.isfinite(z).all()):
        wide = (narrow(z.device) if dtype is None else dtype) == torch.float32
        way = (
            "its weights are damaged, or --scale is far too large"
            if wide
            else "give --dtype float32, which reaches further"
        )
        raise ValueError(f"the U-Net gave values that are not finite; {way}")
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


def checked_size(request: Request, spec: SampleSpec, unit: int) -> tuple[int, int]:
    """Height and width, pixels, of a request without a picture to start from.

    Raises:
        ValueError: a side is no multiple of `unit`.
    """
    height, width = (spec.size if side is None else side for side in (request.height, request.width))
    for name, side in (("height", height), ("width", width)):
        if side < unit or side % unit:
            raise ValueError(f"{name}: {side} is not possible with this model; give a multiple of {unit} pixels")
    return height, width
