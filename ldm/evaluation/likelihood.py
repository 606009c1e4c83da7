"""What `scripts/likelihood.py` does with its options: bits per dimension by term, or which caption fits."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldm.build import Model
from ldm.codec import IdentityCodec
from ldm.core.shapes import Image
from ldm.denoiser import Denoiser, bind
from ldm.evaluation.bpd import PictureBound, StageOne, bits_rows, estimated_terms, flow_terms, joined, stage_one
from ldm.evaluation.encoded import Encoded, Pictures, encoded, read_pictures
from ldm.evaluation.paths import Variance, level_errors, nodes_of, path_terms
from ldm.evaluation.pixels import PixelLikelihood, measured_scale
from ldm.evaluation.table import as_table
from ldm.evaluation.which_caption import which_caption
from ldm.model_folder import load_model
from ldm.process.elbo import ElboTerms
from ldm.process.grid import uniform_logsnr
from ldm.process.paths import even, quadratic
from ldm.process.weights import Elbo, SimpleEps
from ldm.samplers.tuned import load_tuned

SCALE_PICTURES = 32  # of --scale-data


def likelihood(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The text to print.

    Args:
        options: of `scripts/likelihood.py`.
        device: where to run.

    Raises:
        ValueError: an option, the model or the data cannot be used.
    """
    _check(options)
    model = load_model(options.model).as_written().to(device)
    pictures = read_pictures(options.pictures, model.config.data.size, options.samples, options.seed)
    yield f"{options.model} ({model.sha256[:12]}): {len(pictures)} pictures, seed {options.seed}"
    if options.captions:
        yield from _captions(options, model, pictures)
        return
    on_pixels = isinstance(model.codec, IdentityCodec)
    if on_pixels and (options.path or options.timesteps or options.ode):
        raise ValueError(
            "--path, --timesteps, --ode: they give a density of pixels, not a probability; leave them out on this model"
        )
    path = _sub_path(options, model)
    pixels = None if on_pixels else _pixel_likelihood(options, model, pictures)
    if pixels is not None:
        yield f"p(x|z): {pixels.kind}, scale {pixels.scale:.5f}, on {pixels.levels} values; latent: {_method(options)}"
    parts = []
    for batch in encoded(model, pictures, options.seed):
        one = _stage_one(model, batch, pixels)
        latent = _latent_terms(options, model, batch, path)
        parts.append(PictureBound(batch.images[0].numel(), one.pixels, one.log_q, latent))
    latent_name = "latent, -log p(z) by the flow" if options.ode else None
    yield as_table(bits_rows(_named(options.pictures), joined(parts), latent_name))


def _check(options: argparse.Namespace) -> None:
    given = [name for name in ("path", "timesteps", "ode") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]}, --{given[1]}: two ways to measure the latents; give one of them")
    if options.captions and (given or options.steps):
        raise ValueError(f"--{[*given, 'steps'][0]}: it is of bits, and --captions has none; leave one of them out")
    if options.draws < 1:
        raise ValueError(f"--draws: {options.draws}; give at least one level for each picture")
    if options.path is not None and options.path < 1:
        raise ValueError(f"--path: {options.path} steps; give at least one")
    if options.path is None and options.spacing != "tuned":
        raise ValueError(f"--spacing: {options.spacing} is of --path, which says of how many steps")
    if not (options.path or options.timesteps) and options.variance != "analytic":
        raise ValueError(f"--variance: {options.variance} is of the steps of --path or --timesteps")
    if options.steps < 0:
        raise ValueError(f"--steps: {options.steps}; give T, or 0 for the bound in continuous time")


@dataclass(frozen=True)
class _SubPath:
    """Rising timesteps, and the variance of the steps between them."""

    timesteps: Sequence[int]
    variance: Variance


def _sub_path(options: argparse.Namespace, model: Model) -> _SubPath | None:
    if not (options.path or options.timesteps):
        return None
    of_steps = options.path and options.spacing == "tuned"
    tuned = load_tuned(options.model, model.sha256) if of_steps or options.variance == "analytic" else None
    variance = tuned.variance if tuned is not None and options.variance == "analytic" else options.variance
    if options.timesteps:
        return _SubPath(options.timesteps, variance)
    if tuned is not None and options.spacing == "tuned":
        if options.path > len(tuned.paths):
            raise ValueError(f"--path: {options.path} steps, but paths of 1 to {len(tuned.paths)} are tuned")
        return _SubPath(tuned.paths[options.path - 1], variance)
    nodes = range(model.schedule.steps) if tuned is None else tuned.timesteps
    if options.path > len(nodes):
        raise ValueError(f"--path: {options.path} steps, but there are {len(nodes)} levels")
    spread = even if options.spacing == "even" else quadratic
    return _SubPath([nodes[i - 1] for i in spread(len(nodes), options.path)], variance)


def _stage_one(model: Model, batch: Encoded, pixels: PixelLikelihood | None) -> StageOne:
    if pixels is None:
        zeros = torch.zeros(len(batch.z), dtype=torch.float64)
        return StageOne(zeros, zeros)
    with torch.no_grad():
        return stage_one(model.codec.decode, batch.images, batch.posterior, batch.z, pixels)


def _latent_terms(options: argparse.Namespace, model: Model, batch: Encoded, path: _SubPath | None) -> ElboTerms:
    denoise: Denoiser = bind(model.denoise, batch.cond)
    if path is not None:
        levels = nodes_of(model.schedule, path.timesteps)
        errors = level_errors(denoise, batch.z, levels, batch.noise)
        return path_terms(errors, batch.z, levels, range(1, len(levels) + 1), path.variance)
    if options.ode:
        grid = uniform_logsnr(model.schedule, options.ode, end=_cleanest(model))
        return flow_terms(denoise, batch.z, grid, batch.noise, probes=options.probes)
    values = 256 if isinstance(model.codec, IdentityCodec) else None
    steps = options.steps or None
    return estimated_terms(
        denoise, batch.z, model.schedule, batch.noise, steps=steps, draws=options.draws, values=values
    )


def _cleanest(model: Model) -> float:
    return float(model.schedule(torch.zeros(1, dtype=torch.float64)))


def _method(options: argparse.Namespace) -> str:
    if options.path:
        return f"{options.spacing} path of {options.path} steps, {options.variance} variance"
    if options.timesteps:
        return f"{len(options.timesteps)} timesteps, {options.variance} variance"
    if options.ode:
        return f"probability flow in {options.ode} steps, {options.probes} probes"
    return f"T = {options.steps or 'infinity'}, {options.draws} levels a picture"


def _pixel_likelihood(options: argparse.Namespace, model: Model, pictures: Pictures) -> PixelLikelihood:
    """With the scale given, or measured on pictures of `--scale-data`, or else on the very pictures."""
    if options.scale is not None:
        return PixelLikelihood(kind=options.likelihood, scale=options.scale)
    if options.scale_data is not None:
        pictures = read_pictures([options.scale_data], model.config.data.size, SCALE_PICTURES, options.seed)
    seen: list[tuple[Image, Image]] = []
    with torch.no_grad():
        for batch in encoded(model, pictures, options.seed + 1):
            seen.append((batch.images.cpu(), model.codec.decode(batch.z).float().cpu()))
    images, decoded = (torch.cat(column) for column in zip(*seen, strict=True))
    return PixelLikelihood(kind=options.likelihood, scale=measured_scale(options.likelihood, images, decoded))


def _captions(options: argparse.Namespace, model: Model, pictures: Pictures) -> Iterator[str]:
    """For each picture every caption, best first, with how far it is behind and how likely it is."""
    conds = [model.condition([caption]) for caption in options.captions]
    weight = SimpleEps() if options.weight == "eps" else Elbo()
    unit = "nats" if options.weight == "elbo" else "mean squared noise error, summed"
    names = iter(pictures.names)
    for batch in encoded(model, pictures, options.seed):
        scores = which_caption(
            model.denoise, batch.z, conds, model.schedule, batch.noise, draws=options.draws, weight=weight
        )
        for row in range(len(batch.z)):
            lines = [f"{next(names)}: {unit} behind the best, {options.draws} levels"]
            for c in scores.mean[row].argsort().tolist():
                behind, error = scores.behind[row, c].item(), scores.error[row, c].item()
                line = f"  {behind:12.3f} +- {error:.3f}  {options.captions[c]}"
                if options.weight == "elbo":
                    line += f"  (p = {scores.probability[row, c].item():.3f})"
                lines.append(line)
            yield "\n".join(lines)


def _named(paths: list[Path]) -> str:
    return paths[0].name if len(paths) == 1 else f"{len(paths)} given"
