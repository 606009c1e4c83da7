"""What the cache is worth: steps on cached latents against the same steps that encode, and the cost of loading them.

    python benchmarks/caching.py                                # configs/ldm/emoji.yaml, its own batch, 10 steps each
    python benchmarks/caching.py --threads 1 --steps 5 --batch 8
    python benchmarks/caching.py --photo 4000 3000              # pictures as a telephone takes them

training:  the same optimiser step of the same network, fed by the cache, and fed by pictures that are decoded and sent
           through the frozen encoders in that step, as trainers without a cache do. A step of one follows a step of the
           other, so that whatever else the machine does falls on both.
loading:   batches of the shapes of Stable Diffusion (latents 4x64x64, text states 77x768) from a cache on disk, beside
           a model step that is only waited for, as the CPU waits for a GPU. The overhead is what an iteration takes
           longer than one without data, which is measured in turn; and the time of a CPU core that a batch costs.

Pictures are noise, captions are numbers and weights are random: they do not change the time. Without `--photo` pictures
are PNGs of the size that is trained on, which are read in no time; with it they are JPEGs of that size, smooth like
photographs (about 3 bits a pixel), that have to be decoded and made smaller whenever they are read.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from autoencoder.build import save_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.model import Autoencoder
from autoencoder.stats import LatentMoments
from ldm.build import Model, build_codec, build_denoiser, build_guess
from ldm.config import CodecSpec, RunConfig
from ldm.core.config_io import load
from ldm.core.gaussian import Gaussian
from ldm.core.optim import adamw
from ldm.core.precision import autocast
from ldm.core.rng import NoiseStream
from ldm.data.folder import FolderSpec, ImageFolder, Sample
from ldm.data.latents import Batch, LatentCache
from ldm.data.position import DrawSampler, ResumableSampler
from ldm.data.shards import Encoders
from ldm.model_folder import text_root
from ldm.nets.text import build_text
from ldm.training.datamodule import cacheable, cached, train_loader
from ldm.training.module import LatentDiffusion

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def make_pictures(folder: Path, count: int, size: int) -> Path:
    """Noise, as PNG, each with a caption of its own."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:05}.png")
        (folder / f"{i:05}.txt").write_text(f"picture number {i}, flat twemoji")
    return folder


def make_photos(folder: Path, count: int, width: int, height: int) -> Path:
    """JPEGs with soft shapes and a sensor's noise; eight different ones, over and over."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i:05}.jpg"
        if i < 8:
            coarse = Image.fromarray(rng.integers(0, 255, (height // 64, width // 64, 3), dtype=np.uint8))
            soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = soft + rng.normal(0, 6, soft.shape).astype(np.int16)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        else:
            path.write_bytes((folder / f"{i % 8:05}.jpg").read_bytes())
        path.with_suffix(".txt").write_text(f"picture number {i}, flat twemoji")
    return folder


def random_model(config: RunConfig, stage1: AutoencoderConfig, folder: Path) -> Model:
    """The model of a recipe before training, with an autoencoder before training."""
    bundle = folder / "autoencoder.safetensors"
    channels = stage1.model.latent_channels
    moments = LatentMoments(mean=(0.0,) * channels, std=(1.0,) * channels, images=1)
    save_autoencoder(bundle, stage1, Autoencoder(stage1.model), moments)
    spec = CodecSpec(path=str(bundle))
    config = replace(config, codec=spec, data=replace(config.data, cache=str(folder / "cache"), views=1))
    codec, latents = build_codec(spec, Path())
    text = build_text(config.text, text_root(config, ROOT))
    return Model(config, build_denoiser(config), config.schedule, codec, text, build_guess(config), latents)


def stepper(model: Model, batches: Iterator[Batch]) -> Callable[[], None]:
    """One optimiser step as training takes it, its batch included."""
    module = LatentDiffusion(model).train()
    optimizer, config = adamw(module.learned, model.config.optim), model.config

    def step() -> None:
        optimizer.zero_grad()
        batch = next(batches)
        with autocast(CPU):
            loss, _ = module.loss(batch, NoiseStream([0]), dropped=config.data.drop_caption)
        loss.mean().backward()
        nn.utils.clip_grad_norm_(module.learned.parameters(), config.optim.clip)
        optimizer.step()
        module.ema.update()

    return step


def encoding(model: Model, pictures: Path) -> Iterator[Batch]:
    """Batches of pictures through the frozen encoders, step after step."""
    data = model.config.data
    folder = ImageFolder(FolderSpec(path=str(pictures), size=data.size))
    order = DrawSampler(ResumableSampler(len(folder), 0))
    loader: DataLoader[Sample] = DataLoader(folder, data.batch, sampler=order)
    for batch in loader:
        with torch.inference_mode(), autocast(CPU):
            posterior = model.codec.posterior(batch.image.to(memory_format=torch.channels_last))
            states = cacheable(model, batch.caption).present()
        found = {"mean": posterior.mean.float(), "var": posterior.var.float(), **states}
        yield {name: tensor.clone() for name, tensor in found.items()}


def of_stable_diffusion(folder: Path, count: int) -> LatentCache:
    """A cache in the shapes of Stable Diffusion, of noise."""
    encoders = Encoders(
        lambda x: Gaussian(torch.randn(len(x), 4, 64, 64), torch.ones(len(x), 4, 64, 64)),
        lambda captions: {"tokens": torch.randn(len(captions), 77, 768)},
        ("noise",),
    )
    pictures = ImageFolder(FolderSpec(path=str(make_pictures(folder / "small", count, 8)), size=8))
    return LatentCache(pictures, encoders, views=1, directory=folder / "cache", seed=0)


def waiting(seconds: float, batches: Iterator[Batch] | None = None) -> Callable[[], None]:
    """A model step that is only waited for, with a batch before it or without."""

    def step() -> None:
        if batches is not None:
            next(batches)
        time.sleep(seconds)

    return step


def interleaved(calls: Sequence[Callable[[], None]], steps: int) -> list[float]:
    """Median seconds of `steps` calls of each, in turn, after two of each that are not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for i in range(steps + 2):
        for call, kept in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            if i >= 2:
                kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in seconds]


def training(options: argparse.Namespace, folder: Path) -> None:
    """Print what a training step costs from the cache, and with the encoders in it; pictures are made in `folder`."""
    config = load(options.config, RunConfig)
    if options.batch:
        config = replace(config, data=replace(config.data, batch=options.batch))
    stage1 = load(options.autoencoder, AutoencoderConfig)
    model = random_model(config, stage1, folder)
    b, size = config.data.batch, config.data.size
    count = max(2 * b, 64)
    if options.photo:
        pictures = make_photos(folder / "pictures", count, *options.photo)
    else:
        pictures = make_pictures(folder / "pictures", count, size)
    seen = cached(model, str(pictures), 1)
    from_cache = stepper(model, iter(train_loader(seen, len(seen), b, 0, 0)))
    from_pictures = stepper(model, encoding(model, pictures))
    fast, slow = interleaved([from_cache, from_pictures], options.steps)
    millions = sum(p.numel() for p in model.denoise.parameters()) / 1e6
    taken = f"photographs of {options.photo[0]}x{options.photo[1]}" if options.photo else "PNGs of that size"
    print(
        f"training: {millions:.1f} M parameters, {size} pixels, {taken}, batch {b}, {torch.get_num_threads()} threads"
    )
    for name, seconds in (("cached", fast), ("encoding", slow)):
        print(f"  {name + ':':10s}{1e3 * seconds:8.1f} ms a step, {b / seconds:7.1f} pictures a second")
    print(f"  ratio: {slow / fast:.2f}")


def loading(options: argparse.Namespace, folder: Path) -> None:
    """Print what the loader adds to a step that is only waited for; the cache is made in `folder`."""
    data = of_stable_diffusion(folder, 1024)
    batches = iter(train_loader(data, len(data), 32, 0, 0, workers=options.workers))
    plain, loaded = interleaved([waiting(0.05), waiting(0.05, batches)], 5 * options.steps)
    began = time.process_time()
    for _ in range(options.steps):
        next(batches)
    cost = 1e3 * (time.process_time() - began) / options.steps
    print(
        f"loading: batch 32 of 4x64x64 latents and 77x768 states, {options.workers} workers, {1e3 * plain:.1f} ms steps"
    )
    print(
        f"  with data {1e3 * loaded:.1f} ms: overhead {100 * (loaded / plain - 1):.1f} %; {cost:.1f} ms of this process"
    )


def main() -> None:
    """Both parts, each in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=ROOT / "configs" / "ldm" / "emoji.yaml")
    parser.add_argument("--autoencoder", default=ROOT / "configs" / "autoencoder" / "emoji.yaml", help="its recipe")
    parser.add_argument("--photo", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="JPEGs of this size instead")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each (loading: five times as many)")
    parser.add_argument("--batch", type=int, help="pictures a step in training (default: the recipe's)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load (default: the training process)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for part in (loading, training):
        with tempfile.TemporaryDirectory() as folder:
            part(options, Path(folder))


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
