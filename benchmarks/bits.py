"""The figures of the likelihood papers, on a trained model: reverse variances, paths, and how levels are drawn.

    python benchmarks/bits.py                                   # the shipped model, held-out cells
    python benchmarks/bits.py --samples 32 --levels 250
    python benchmarks/bits.py --latents means                   # what posterior noise has to do with it

Pictures are encoded, and half of them serve to measure the analytic variance and to choose paths; the other half is
scored. Every figure is the rate of the second stage: what the latents cost beyond the encoder's own entropy, an upper
bound on KL(q(z|x) || p(z)), in bits for each latent dimension. On draws it is never negative on average, so ratios of
it mean something, which those of a density of latents would not; on means, which have no entropy, only differences do,
and no ratio is printed.

A step has the variance beta (`upper`), beta-tilde (`posterior`) or the analytic one. The last step decodes with the
variance of its kind; beta-tilde, which is 0 there, decodes from x_t alone.

Low-discrepancy times are compared with independent ones by the variance of the mean bound over a batch: batches are
drawn from the measured errors (picture, level), with pictures and levels at random.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from ldm.build import Model
from ldm.codec import IdentityCodec
from ldm.core.device import pick_device
from ldm.core.rng import NoiseStream, fold
from ldm.denoiser import bind
from ldm.evaluation.encoded import Pictures, encoded, read_pictures
from ldm.evaluation.paths import (
    Errors,
    Levels,
    Variance,
    analytic_variance,
    level_errors,
    nodes_of,
    path_terms,
    table_of,
)
from ldm.evaluation.table import Row, as_table, mean_row
from ldm.evaluation.tune import spread
from ldm.model_folder import load_model
from ldm.process.paths import even, optimal_path
from ldm.process.schedule import Schedule
from ldm.process.times import LowDiscrepancy, Times, Uniform

ROOT = Path(__file__).resolve().parent.parent
FEW, SOME = 10, 32  # steps of the papers' tables
BATCH, BATCHES = 32, 4000  # of the comparison of times


def measured(
    model: Model, pictures: Pictures, levels: Levels, seed: int, latents_are: str
) -> tuple[Errors, Tensor, Tensor]:
    """Errors (n, t), latents (n, *d) and entropies of q(z | x) (n,), nats."""
    errors, latents, entropies = [], [], []
    for batch in encoded(model, pictures, seed):
        z = batch.z if latents_are == "draws" else batch.posterior.mean
        errors.append(level_errors(bind(model.denoise, batch.cond), z, levels, batch.noise))
        latents.append(z.double().cpu())
        var = batch.posterior.var.double().expand(z.shape).cpu()
        entropies.append(0.5 * (math.log(2 * math.pi * math.e) + var.log()).flatten(1).sum(1))
    return torch.cat(errors), torch.cat(latents), torch.cat(entropies)


def ratio_row(name: str, a: Tensor, b: Tensor) -> Row:
    """mean(a) / mean(b) over the same pictures, with its standard error to first order."""
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std() / b.mean() / len(a) ** 0.5
    return Row(name, "ratio", ratio.item(), error.item(), len(a))


def integrand(errors: Errors, levels: Levels, schedule: Schedule) -> Tensor:
    """1/2 SNR (-dlogsnr/dt) |x_0 - x0_hat|^2 (n, t), nats: its mean is the continuous bound's denoising term."""
    return 0.5 * levels.exp() * -schedule.slope(schedule.inverse(levels)) * errors


def times_rows(errors: Errors, levels: Levels, schedule: Schedule, seed: int) -> list[Row]:
    """Variance of a batch's mean bound with independent and with low-discrepancy times, and the ratio of the two."""
    n = len(errors)
    weighted = integrand(errors, levels, schedule)
    generator = torch.Generator().manual_seed(fold(seed, "pictures"))
    found = {}
    for name, times in (("independent", Uniform()), ("low-discrepancy", LowDiscrepancy())):
        streams = (NoiseStream([fold(seed, name, i)]) for i in range(BATCHES))
        means = [_batch_mean(weighted, times, stream, schedule, generator) for stream in streams]
        found[name] = torch.stack(means)
    variances = {name: means.var() for name, means in found.items()}
    spread_of = {name: ((m - m.mean()) ** 2).std() / len(m) ** 0.5 for name, m in found.items()}
    ratio = variances["low-discrepancy"] / variances["independent"]
    relative = torch.stack([spread_of[name] / variances[name] for name in found]).square().sum().sqrt()
    return [
        Row(
            f"times, batches of {BATCH}",
            "variance, low-discrepancy / independent",
            ratio.item(),
            float(ratio * relative),
            n,
        )
    ]


def _batch_mean(
    weighted: Tensor, times: Times, noise: NoiseStream, schedule: Schedule, generator: torch.Generator
) -> Tensor:
    n, count = weighted.shape
    columns = (times.draw(BATCH, noise, schedule) * count).long().clamp(max=count - 1)
    return weighted[torch.randint(n, (BATCH,), generator=generator), columns].mean()


def tables(model: Model, pictures: Pictures, levels: Levels, seed: int, latents_are: str) -> list[Row]:
    """All figures."""
    errors, z, entropy = measured(model, pictures, levels, seed, latents_are)
    size, count = z[0].numel(), len(levels)
    fit, scored = slice(0, None, 2), slice(1, None, 2)
    analytic = analytic_variance(errors[fit], levels, size, model.sha256)
    kinds: dict[str, Variance] = {"analytic": analytic, "beta": "upper", "beta-tilde": "posterior"}

    def rate(indices: Sequence[int], kind: str) -> Tensor:
        terms = path_terms(errors[scored], z[scored], levels, indices, kinds[kind])
        return (terms.total - entropy[scored]) / (size * math.log(2))

    few = {kind: rate(even(count, FEW), kind) for kind in kinds}
    best = optimal_path(table_of(errors[fit], levels, size, analytic), SOME)
    full = rate(range(1, count + 1), "analytic")
    at = {"best path": rate(best.indices, "analytic"), "even path": rate(even(count, SOME), "analytic")}
    unit = "rate (bits/latent dim)"
    rows = [mean_row(f"{FEW} even steps, {kind}", unit, bits) for kind, bits in few.items()]
    if latents_are == "draws":
        rows += [ratio_row(f"{FEW} even steps, analytic / beta", few["analytic"], few["beta"])]
        rows += [ratio_row(f"{FEW} even steps, beta / beta-tilde", few["beta"], few["beta-tilde"])]
    rows += [mean_row(f"all {count} steps, analytic", unit, full)]
    for name, bits in at.items():
        rows.append(mean_row(f"{SOME} steps, {name}", unit, bits))
        rows.append(mean_row(f"{SOME} steps, {name} - all steps", unit, bits - full))
    return rows + times_rows(errors, levels, model.schedule, seed)


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "emoji", help="model folder")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data" / "emoji" / "heldout_cells", help="folder of pictures"
    )
    parser.add_argument("--samples", type=int, default=64, help="pictures, half of them to fit")
    parser.add_argument("--levels", type=int, default=500, help="timesteps, each one evaluation a picture")
    parser.add_argument(
        "--latents", choices=("draws", "means"), default="draws", help="score draws from q(z | x) or its means"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pictures and the noise")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options = parser.parse_args()
    if options.samples < 4:
        raise ValueError(f"--samples: {options.samples}; give 4 or more, half of them are scored")
    if options.levels <= SOME:
        raise ValueError(f"--levels: {options.levels}; give more than {SOME}, the steps of the longer path")
    model = load_model(options.model).as_written().to(pick_device(options.device))
    if isinstance(model.codec, IdentityCodec):
        raise ValueError("--model: it has no autoencoder, so there is no rate of latents; give one of two stages")
    pictures = read_pictures([options.data], model.config.data.size, options.samples, options.seed)
    if len(pictures) < 4:
        raise ValueError(f"--data: {len(pictures)} pictures; give a folder of 4 or more")
    levels = nodes_of(model.schedule, spread(model.schedule, options.levels))
    print(
        f"{options.model} ({model.sha256[:12]}): {len(pictures)} pictures of {options.data.name}, {len(levels)} of "
        f"{model.schedule.steps} levels, {options.latents}, seed {options.seed}\n"
    )
    print(as_table(tables(model, pictures, levels, options.seed, options.latents)))


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
