"""Which recipe learns most in equal minutes: the held-out loss of variants of a stage-2 recipe.

    python benchmarks/recipes.py --minutes 5 --set guess.optim.steps=300 --set guess.folds=0     # the variants below
    python benchmarks/recipes.py --minutes 5 --variant "batch 16" data.batch=16 --variant "batch 64" data.batch=64
    python benchmarks/recipes.py --minutes 5 --variant AdamW --variant Muon optimizer=muon       # see optimizers.py

Every variant trains from scratch with its averaged weights on the same cached latents of `data.train`; the variants
take turns of a few seconds, so that whatever else the machine does falls on all, and each has had `--minutes` of its
own at the end. What its guess takes to train is part of them, so give it few steps. The learning rate stays on its
plateau. The figure is the same for all whatever their own loss is: the mean squared error of v over t uniform in
[0, 1), on `data.val` with fixed noise and every caption kept, with its standard error over pictures. Needs the data
and the autoencoder that the recipe names.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.optimizers import OPTIMIZERS
from ldm.config import RunConfig
from ldm.core.config_io import load
from ldm.core.precision import autocast
from ldm.core.rng import NoiseStream, fold
from ldm.data.latents import Batch, LatentCache
from ldm.losses import denoising_loss
from ldm.process.times import LowDiscrepancy
from ldm.process.weights import SimpleV
from ldm.training.datamodule import cached, train_loader, val_loader
from ldm.training.fit import build_for_training, ready_guess
from ldm.training.module import LatentDiffusion

ROOT = Path(__file__).resolve().parent.parent
TURN = 20.0  # seconds
TOWER = "text={kind: clip, width: 384, layers: 4, heads: 6, max_tokens: 24, pooled: true, trainable: true}"
VARIANTS: list[tuple[str, list[str]]] = [
    ("the recipe", []),
    ("batch 16", ["data.batch=16"]),
    ("batch 64", ["data.batch=64"]),
    ("average over 100 steps", ["optim.ema=0.99"]),
    ("lr 3e-4", ["optim.lr=3e-4"]),
    ("beta2 0.999", ["optim.betas=[0.9, 0.999]"]),
    ("min-SNR 5", ["loss={kind: min_snr, gamma: 5.0}"]),
    ("wide, shallow", ["net.channels=160", "net.blocks=[1, 1]", "net.head_channels=80"]),
    ("narrow, deep", ["net.channels=96", "net.blocks=[2, 4]", "net.head_channels=48"]),
    ("draws, not means", ["data.latents=sample"]),
    ("no guess", ["guess=null", "net.cond_channels=0"]),
    ("no guess, CLIP tower from scratch", ["guess=null", "net.cond_channels=0", TOWER]),
]


@dataclass
class Trial:
    """One variant in training."""

    name: str
    module: LatentDiffusion
    optimizer: Any
    batches: Iterator[Batch]
    held_out: LatentCache
    steps: int = 0
    seconds: float = 0.0


def begin(name: str, config: RunConfig, optimizer: str) -> Trial:
    """A new network with its data; what its guess takes to train counts as its time."""
    torch.manual_seed(config.seed)
    model = build_for_training(config, Path())
    seen = cached(model, config.data.train, config.data.views, limit=config.data.limit)
    held_out = cached(model, config.data.val, 1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        unseen = ready_guess(model, seen, Path(out))
    seconds = time.perf_counter() - began if model.guess is not None else 0.0
    module = LatentDiffusion(model, unseen=unseen)
    module.learned.train()  # the guess stays as it draws, without dropout
    batches = iter(train_loader(seen, len(seen), config.data.batch, config.seed, 0))
    return Trial(name, module, OPTIMIZERS[optimizer](module.learned, config.optim), batches, held_out, seconds=seconds)


def step(trial: Trial) -> None:
    """One optimiser step as training takes it."""
    config = trial.module.model.config
    for group in trial.optimizer.param_groups:
        group["lr"] = config.optim.lr * min(1.0, (trial.steps + 1) / max(config.optim.warmup, 1))
    batch = next(trial.batches)
    trial.optimizer.zero_grad()
    with autocast(torch.device("cpu")):
        noise = NoiseStream([fold(config.seed, "train", trial.steps)])
        loss = trial.module.loss(batch, noise, dropped=config.data.drop_caption)[0].mean()
    loss.backward()
    nn.utils.clip_grad_norm_(trial.module.learned.parameters(), config.optim.clip)
    trial.optimizer.step()
    trial.module.ema.update()
    trial.steps += 1


def turn(trial: Trial, seconds: float) -> None:
    """Train for at least one step and about `seconds`."""
    began = time.perf_counter()
    while True:
        step(trial)
        if time.perf_counter() - began >= seconds:
            break
    trial.seconds += time.perf_counter() - began


@torch.no_grad()
def held_out_loss(module: LatentDiffusion, data: LatentCache) -> Tensor:
    """The common figure for every held-out picture (n,)."""
    schedule, found = module.model.schedule, []
    with module.ema.applied():
        for index, batch in enumerate(val_loader(data)):
            noise = NoiseStream([fold(0, "recipes", index)])
            x0, eps = batch["mean"], noise.normal((1, *batch["mean"].shape))[0]
            t = LowDiscrepancy().draw(len(x0), noise, schedule)
            with autocast(torch.device("cpu")):
                denoise = module.conditioned(batch, torch.zeros(len(x0), dtype=torch.bool))
                found.append(denoising_loss(denoise, x0, eps, schedule(t), SimpleV(), schedule.slope(t)))
    return torch.cat(found)


def variants(given: Sequence[Sequence[str]] | None) -> list[tuple[str, list[str]]]:
    """Name and overrides of each variant."""
    return [(words[0], list(words[1:])) for words in given] if given else VARIANTS


def with_optimizer(variant: tuple[str, list[str]]) -> tuple[str, list[str], str]:
    """Name, overrides and optimiser of a variant: the word optimizer=NAME is no part of the configuration."""
    name, words = variant
    asked = [word.removeprefix("optimizer=") for word in words if word.startswith("optimizer=")] or ["adamw"]
    if asked[-1] not in OPTIMIZERS:
        raise ValueError(f"--variant: optimizer={asked[-1]} is unknown; known: {', '.join(OPTIMIZERS)}")
    return name, [word for word in words if not word.startswith("optimizer=")], asked[-1]


def main() -> None:
    """Train all variants in turns, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=ROOT / "configs" / "ldm" / "emoji.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override for all variants")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training for each variant")
    parser.add_argument("--variant", action="append", nargs="+", metavar="WORD", help="name, then KEY=VALUE ...")
    options = parser.parse_args()
    if not 0 < options.minutes < math.inf:
        raise ValueError(f"--minutes: {options.minutes}; give a number above 0")
    budget, trials = 60 * options.minutes, []
    asked = [
        (name, load(options.config, RunConfig, [*options.set, *changes]), optimizer)
        for name, changes, optimizer in map(with_optimizer, variants(options.variant))
    ]
    for name, config, optimizer in asked:
        trial = begin(name, config, optimizer)
        if trial.seconds >= budget:
            raise ValueError(
                f"--minutes: {options.minutes:g}, but the guess of '{name}' alone took {trial.seconds / 60:.1f}; "
                "give more, or lower guess.optim.steps with --set"
            )
        trials.append(trial)
    while min(trial.seconds for trial in trials) < budget:
        for trial in trials:
            if trial.seconds < budget:
                turn(trial, min(TURN, budget - trial.seconds))
    n, threads = len(trials[0].held_out), torch.get_num_threads()
    print(f"{options.minutes:g} minutes each, {threads} threads, {n} held-out pictures\n")
    print("| variant | parameters (M) | steps | pictures | held-out loss | +- |\n|---|---:|---:|---:|---:|---:|")
    for trial in trials:
        loss = held_out_loss(trial.module, trial.held_out)
        size = sum(p.numel() for p in trial.module.learned.parameters()) / 1e6
        seen = trial.steps * trial.module.model.config.data.batch
        error = loss.std() / len(loss) ** 0.5
        print(f"| {trial.name} | {size:.1f} | {trial.steps} | {seen} | {loss.mean():.4f} | {error:.4f} |")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
