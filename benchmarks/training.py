"""Training throughput of stage 2: ours against the same network in a plain float32 loop.

    python benchmarks/training.py                            # configs/ldm/emoji.yaml, its own batch, 20 steps each
    python benchmarks/training.py --steps 5 --batch 16 --threads 2

ours:    compiled, if the recipe says so and a compiler is there, which takes minutes first; bfloat16 autocast where
         the machine is fast in it, channels-last weights, fused AdamW, the moving average of the weights, on cached
         latents and text states. `--no-compile` leaves the first out, `--dtype` sets the precision.
plain:   float32, contiguous, AdamW as torch gives it, no moving average; pictures and captions go through the frozen
         encoders in every step, as they do where nothing is cached.
cached:  the plain loop on the cached batch, which leaves the difference of the steps themselves.

All see the same network, loss, gradient clipping, threads and shapes; pictures, latents and text states are random,
since numbers do not change the time. A step of one follows a step of the others in one process, so that whatever else
the machine does falls on all. Runs on the CPU, best on an otherwise idle one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from autoencoder.config import AutoencoderConfig
from autoencoder.model import Autoencoder
from ldm.build import build_denoiser, build_guess
from ldm.config import RunConfig
from ldm.core.compiled import missing_compiler
from ldm.core.config_io import load
from ldm.core.ema import Ema
from ldm.core.gaussian import Gaussian, sample
from ldm.core.optim import adamw
from ldm.core.precision import autocast
from ldm.core.rng import NoiseStream
from ldm.denoiser import NetDenoiser, bind
from ldm.losses import denoising_loss
from ldm.model_folder import text_root
from ldm.nets.cond import Cond
from ldm.nets.guess import with_phrases
from ldm.nets.text import build_text
from ldm.nets.unet import UNet

ROOT = Path(__file__).resolve().parent.parent
WORDS = (4, 12)  # tokens of a caption, from and to
CAPTION = "red apple, flat twemoji, on a blue background"

Batch = tuple[Gaussian, Cond]


def random_batch(config: RunConfig, b: int, tokens: int, factor: int) -> Batch:
    """Posteriors of latents (b, c, h, w) and conditions, as a cache would give them."""
    side = config.data.size // factor
    shape, generator = (b, config.net.in_channels, side, side), torch.Generator().manual_seed(0)
    posterior = Gaussian(torch.randn(shape, generator=generator), torch.full(shape, 0.01))
    channels = config.net.cond_channels
    words = torch.randint(*WORDS, (b, 1), generator=generator)
    cond = Cond(
        tokens=torch.randn(b, tokens, config.net.context_dim, generator=generator),
        mask=torch.arange(tokens) < words,
        pooled=torch.randn(b, config.net.pooled_dim, generator=generator) if config.net.pooled_dim else None,
        channels=torch.randn(b, channels, side, side, generator=generator) if channels else None,
    )
    return posterior, cond


def encoder(config: RunConfig, stage1: AutoencoderConfig, b: int) -> Callable[[], Batch]:
    """What a loop without a cache does in every step: random pictures and captions through the frozen encoders."""
    autoencoder = Autoencoder(stage1.model).eval().requires_grad_(False)
    text, guess = build_text(config.text, text_root(config, ROOT)), build_guess(config)
    images = torch.randn(b, 3, config.data.size, config.data.size, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def encode() -> Batch:
        captions = [CAPTION] * b
        cond = text(captions) if guess is None else guess.into(with_phrases(text, captions))
        return autoencoder.encode(images), cond

    return encode


def loss_of(config: RunConfig, denoise: NetDenoiser, batch: Batch) -> Tensor:
    """The training loss of one noisy copy of the batch."""
    posterior, cond = batch
    noise = NoiseStream([0])
    x0, eps = (noise.normal((1, *posterior.mean.shape))[0] for _ in range(2))
    x0 = sample(posterior, x0)
    t = config.times.draw(len(x0), noise, config.schedule)
    level, slope = config.schedule(t), config.schedule.slope(t)
    return denoising_loss(bind(denoise, cond), x0, eps, level, config.loss, slope).mean()


def ours(config: RunConfig, batch: Batch, dtype: torch.dtype | None = None) -> Callable[[], None]:
    """One optimiser step as training takes it; None: as narrow as pays."""
    denoise = build_denoiser(config).train()
    if config.compile and not missing_compiler(torch.device("cpu")):
        denoise.net.compile()
    optimizer, ema = adamw(denoise, config.optim), Ema(denoise.net, config.optim.ema)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(torch.device("cpu"), dtype):
            loss = loss_of(config, denoise, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(denoise.parameters(), config.optim.clip)
        optimizer.step()
        ema.update()

    return step


def plain(config: RunConfig, batch: Callable[[], Batch]) -> Callable[[], None]:
    """One optimiser step as a first loop takes it."""
    prediction = config.prediction
    denoise = NetDenoiser(UNet(config.net), prediction.kind, prediction.scaling, config.schedule.timesteps).train()
    optimizer = torch.optim.AdamW(denoise.parameters(), lr=config.optim.lr)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(config, denoise, batch()).backward()
        nn.utils.clip_grad_norm_(denoise.parameters(), config.optim.clip)
        optimizer.step()

    return step


def interleaved(calls: Sequence[Callable[[], None]], steps: int) -> list[list[float]]:
    """Seconds of `steps` calls of each, in turn, after one of each that is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for i in range(steps + 1):
        for call, kept in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            if i:
                kept.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Print the steps of both loops and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=ROOT / "configs" / "ldm" / "emoji.yaml")
    parser.add_argument("--autoencoder", default=ROOT / "configs" / "autoencoder" / "emoji.yaml", help="its recipe")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each")
    parser.add_argument("--batch", type=int, help="latents a step (default: the recipe's)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto", help="of ours")
    options = parser.parse_args()
    for name in ("steps", "batch", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: {value}; give 1 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = load(options.config, RunConfig)
    if options.no_compile:
        config = replace(config, compile=False)
    if config.prediction.learned_variance:
        raise ValueError("--config: its variance is learned, by another loss than the plain loop's; compare without it")
    stage1 = load(options.autoencoder, AutoencoderConfig)
    b = options.batch or config.data.batch
    batch = random_batch(config, b, getattr(config.text, "max_tokens", 77), stage1.model.factor)
    dtype = None if options.dtype == "auto" else getattr(torch, options.dtype)
    steps = ours(config, batch, dtype), plain(config, encoder(config, stage1, b)), plain(config, lambda: batch)
    new, old, cached = (statistics.median(times) for times in interleaved(steps, options.steps))
    size = sum(p.numel() for p in UNet(config.net).parameters()) / 1e6
    print(f"{size:.1f} M parameters, batch {b}, {torch.get_num_threads()} threads, medians of {options.steps} steps")
    for name, seconds in (("ours", new), ("plain", old), ("cached", cached)):
        print(f"{name + ':':8s}{1e3 * seconds:8.1f} ms a step, {b / seconds:6.1f} pictures a second")
    print(f"ratio: {old / new:.2f} to the plain loop, {cached / new:.2f} to the plain loop on cached latents")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
