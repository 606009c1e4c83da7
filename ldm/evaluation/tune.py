"""What `scripts/tune_sampler.py` does: measure a model's errors level by level, choose paths, keep the tables."""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ldm.build import Model
from ldm.core.rng import NoiseStream, fold
from ldm.denoiser import bind
from ldm.evaluation.encoded import Pictures, encoded, read_pictures
from ldm.evaluation.paths import Errors, Levels, analytic_variance, level_errors, nodes_of, table_of
from ldm.evaluation.quality import choices
from ldm.evaluation.table import Row, as_table
from ldm.evaluation.truncation import trajectories, truncation_table
from ldm.model_folder import load_model
from ldm.process.paths import Cost, even, optimal_paths, path_along, quadratic
from ldm.process.schedule import Schedule
from ldm.samplers.tuned import Choice, Tuned, save_tuned

SHOWN = (2, 5, 10, 20, 50, 100, 250)  # steps of which the paths are compared in print


def tune(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The text to print; the tables are written beside the model at the end.

    Args:
        options: of `scripts/tune_sampler.py`.
        device: where to run.

    Raises:
        ValueError: an option, the model or the data cannot be used.
        OSError: the model folder cannot be written.
    """
    if options.trajectories < 1:
        raise ValueError(f"--trajectories: {options.trajectories}; give 1 or more")
    model = load_model(options.model).to(device)
    pictures = read_pictures([options.data], model.config.data.size, options.samples, options.seed)
    timesteps = spread(model.schedule, options.levels)
    tuned, table, size = measure(model, pictures, timesteps, most=options.steps, seed=options.seed)
    local = local_errors(model, pictures.captions[: options.trajectories], timesteps, seed=options.seed)
    fewest = optimal_paths(local, len(tuned.paths))
    tuned = replace(tuned, ode=tuple(tuple(timesteps[i - 1] for i in path.indices) for path in fewest))
    yield (
        f"{options.model} ({model.sha256[:12]}): {len(timesteps)} levels, {len(pictures)} pictures of {options.data}, "
        f"seed {options.seed}"
    )
    yield as_table(_compared(table, len(tuned.paths), size * math.log(2), "bits/latent dim", len(pictures)))
    drawn = min(options.trajectories, len(pictures))
    yield as_table(_compared(local, len(tuned.paths), 1.0, "sum of local errors", drawn))
    if options.quality:
        scales = sorted({1.0, model.config.sample.scale})
        found = []
        for choice in choices(model, pictures.captions[: options.trajectories], tuned, scales, options.seed):
            found.append(choice)
            tuned = replace(tuned, choices=tuple(found))
            save_tuned(options.model, tuned)
        yield as_table([row for choice in found for row in _chosen(choice, drawn)])
    yield f"{save_tuned(options.model, tuned)}: variances of {len(timesteps)} levels, paths of 1 to {len(tuned.paths)}"


def spread(schedule: Schedule, levels: int) -> list[int]:
    """`levels` of the schedule's timesteps at finite level, evenly spaced, the noisiest among them.

    Raises:
        ValueError: more levels than timesteps, or fewer than 2.
    """
    total = schedule.steps
    if not 2 <= levels <= total:
        raise ValueError(f"levels: {levels} is not in 2..{total}, the schedule's timesteps")
    noisiest = schedule(torch.ones(1, dtype=torch.float64))
    last = total if bool(torch.isfinite(noisiest).all()) else total - 1
    return [i - 1 for i in even(last, min(levels, last))]


def measure(
    model: Model, pictures: Pictures, timesteps: Sequence[int], *, most: int, seed: int
) -> tuple[Tuned, Cost, int]:
    """Errors at every level, and from them all tables: one evaluation for each picture and level.

    Args:
        model: from `load_model`.
        pictures: with their captions.
        timesteps: levels to measure, rising.
        most: steps of the longest path, or fewer where there are fewer levels.
        seed: of the noise.

    Returns:
        What is kept, the table of steps it comes from, and the elements of a latent.
    """
    levels = nodes_of(model.schedule, timesteps)
    errors, size = _errors(model, pictures, levels, seed)
    variance = analytic_variance(errors, levels, size, model.sha256)
    table = table_of(errors, levels, size, variance)
    paths = optimal_paths(table, min(most, len(timesteps)))
    return (
        Tuned(
            variance=variance,
            timesteps=tuple(timesteps),
            paths=tuple(tuple(timesteps[i - 1] for i in path.indices) for path in paths),
            nats=tuple(path.nats for path in paths),
            pictures=len(pictures),
        ),
        table,
        size,
    )


def _errors(model: Model, pictures: Pictures, levels: Levels, seed: int) -> tuple[Errors, int]:
    parts, size = [], 0
    for batch in encoded(model, pictures, seed):
        parts.append(level_errors(bind(model.denoise, batch.cond), batch.z, levels, batch.noise))
        size = batch.z[0].numel()
    return torch.cat(parts), size


@torch.no_grad()
def local_errors(model: Model, captions: Sequence[str], timesteps: Sequence[int], *, seed: int) -> Cost:
    """Local errors of DDIM steps along trajectories that draw `captions`, guided as the model draws by default."""
    levels = nodes_of(model.schedule, timesteps)
    side = model.config.sample.size
    shape = model.codec.latent_shape(side, side)
    device = next(model.denoise.parameters()).device
    noise = NoiseStream([fold(seed, "trajectory", i) for i in range(len(captions))])
    cond, null = (model.condition(list(texts), shape[-2:]) for texts in (captions, [""] * len(captions)))
    guided = model.guided(cond, null, model.config.sample.scale, len(timesteps))
    x = noise.normal((len(captions), *shape), like=torch.empty(0, device=device))
    return truncation_table(*trajectories(guided, x, levels), levels)


def _chosen(choice: Choice, drawn: int) -> list[Row]:
    """What was found for a number of steps, as distances to the exact latents."""
    name = f"{choice.steps} steps, scale {choice.scale:g}"
    rows = [Row(name, f"{choice.sampler} {choice.spacing}", choice.distance, None, drawn)]
    if choice.logsnr:
        rows.append(Row(name, "fitted", choice.matched, None, drawn))
    return rows


def _compared(table: Cost, most: int, unit: float, figure: str, pictures: int) -> list[Row]:
    """Cost of best, even and quadratic paths in a unit; without the prior term of a bound, which all share."""
    last = len(table) - 1
    best = optimal_paths(table, most)
    rows = []
    for steps in sorted({*(k for k in SHOWN if k <= most), most}):
        found = {"best": best[steps - 1], "even": path_along(table, even(last, steps))}
        found["quadratic"] = path_along(table, quadratic(last, steps))
        rows += [
            Row(f"{steps} steps", f"{name} path ({figure})", p.nats / unit, None, pictures) for name, p in found.items()
        ]
    return rows
