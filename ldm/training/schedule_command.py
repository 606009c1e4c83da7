"""What `scripts/learn_schedule.py` does: learn a schedule for a trained model, and measure what it gains."""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ldm.build import Model
from ldm.core.bundle import write_atomically
from ldm.core.config_io import to_dict
from ldm.core.rng import NoiseStream, fold
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser, bind
from ldm.evaluation.encoded import encoded, read_pictures
from ldm.evaluation.table import Row, as_table
from ldm.model_folder import load_model
from ldm.nets.gamma import GammaNet, GammaSpec
from ldm.process.piecewise import freeze
from ldm.process.schedule import Cosine, LinearLogSNR, Schedule
from ldm.training.learn_schedule import (
    Draws,
    LearnSpec,
    Pool,
    learn_interior,
    learn_schedule,
    measure_at,
    single_level_draws,
    variance,
    variance_ratio,
)

Batch = tuple[Denoiser, Latent]


def learn(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The text to print; with `options.out` the learned schedule is written as JSON, ready for a configuration.

    Args:
        options: of `scripts/learn_schedule.py`.
        device: where the model runs; the schedule is learned on the CPU.

    Raises:
        ValueError: an option, the model or the data cannot be used, or the ends crossed.
        OSError: the file cannot be written.
    """
    for name in ("levels", "draws"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}: {getattr(options, name)} is below 1; each is one evaluation a picture")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    model = load_model(options.model).to(device)
    seen, held_out = (_batches(model, options, path) for path in (options.data, options.held_out))
    lowest, highest = _ends(model, options)
    gamma = GammaNet(GammaSpec(logsnr_min=lowest, logsnr_max=highest, steps=model.schedule.steps))
    if options.ends:
        spec = LearnSpec(steps=options.end_steps, ends=True)
        gamma.to(device)
        learn_schedule(gamma, lambda step: seen[step % len(seen)], _stream(options, "ends"), spec)
        gamma.cpu()
    lowest, highest = gamma.logsnr_min.item(), gamma.logsnr_max.item()
    straight = LinearLogSNR(logsnr_min=lowest, logsnr_max=highest)
    learn_interior(gamma, _pool(seen, straight, options), LearnSpec(steps=options.fit_steps))
    learned = freeze(gamma, cells=options.cells)
    yield f"{options.model} ({model.sha256[:12]}): ends {highest:.2f} and {lowest:.2f} nats"
    if options.out is not None:
        write_atomically(options.out, json.dumps(to_dict(learned)).encode())
        yield f"{options.out}: the learned schedule"
    cosine = Cosine(logsnr_min=lowest, logsnr_max=highest)
    schedules: dict[str, Schedule] = {"learned": learned, "log-SNR linear": straight, "cosine": cosine}
    yield as_table(_compared(schedules, held_out, options))


def _batches(model: Model, options: argparse.Namespace, path: Path) -> list[Batch]:
    """Latents, encoded once, with the denoiser of their captions."""
    pictures = read_pictures([path], model.config.data.size, options.samples, options.seed)
    return [(bind(model.denoise, b.cond), b.z) for b in encoded(model, pictures, options.seed, options.batch)]


def _ends(model: Model, options: argparse.Namespace) -> tuple[float, float]:
    """Noisiest and cleanest level: the given ones, or those of the model's own schedule."""
    highest, lowest = model.schedule(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    highest = highest if options.logsnr_max is None else options.logsnr_max
    lowest = lowest if options.logsnr_min is None else options.logsnr_min
    if not math.isfinite(lowest):
        raise ValueError("--logsnr-min: this model's schedule ends in pure noise; give a finite level, such as -10")
    return lowest, highest


def _pool(batches: Sequence[Batch], schedule: Schedule, options: argparse.Namespace) -> Pool:
    """Errors at `options.levels` stratified levels of every latent, on the CPU in float64."""
    noise, parts = _stream(options, "pool"), []
    for denoise, x0 in batches:
        for j in range(options.levels):
            u = noise.uniform((1, len(x0)))[0].to(x0.device)
            eps = noise.normal((1, *x0.shape), like=x0[None])[0]
            parts.append(measure_at(denoise, x0, eps, (j + u) / options.levels, schedule))
    columns = ([p.logsnr for p in parts], [p.density for p in parts], [p.error for p in parts])
    return Pool(*(torch.cat(column).cpu().double() for column in columns))


def _compared(schedules: dict[str, Schedule], batches: Sequence[Batch], options: argparse.Namespace) -> list[Row]:
    """Mean and variance of one draw of the denoising terms, bits per latent dimension, and the ratio to the learned."""
    found = {name: _draws(schedule, batches, options) for name, schedule in schedules.items()}
    rows = []
    for name, draws in found.items():
        n = draws.numel()
        mean = draws.mean(1)
        rows.append(Row(name, "denoising terms (bits/dim)", mean.mean().item(), _error_of(mean), n))
        rows.append(Row(name, "variance of one draw (bits/dim)^2", *variance(draws), n))
        if name != "learned":
            rows.append(Row(name, "variance over that of learned", *variance_ratio(draws, found["learned"]), n))
    return rows


def _draws(schedule: Schedule, batches: Sequence[Batch], options: argparse.Namespace) -> Draws:
    parts, start = [], 0
    for denoise, x0 in batches:
        streams = NoiseStream([fold(options.seed, "draw", start + i) for i in range(len(x0))])
        bits = x0[0].numel() * math.log(2)
        parts.append(single_level_draws(denoise, x0, schedule, streams, options.draws) / bits)
        start += len(x0)
    return torch.cat(parts)


def _error_of(values: torch.Tensor) -> float:
    return float(values.std() / len(values) ** 0.5)


def _stream(options: argparse.Namespace, name: str) -> NoiseStream:
    return NoiseStream([fold(options.seed, name)])
