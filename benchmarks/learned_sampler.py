"""DDSS on a trained model: a sampler of few steps, its levels and weights learned through the quality of its pictures.

    python benchmarks/learned_sampler.py                                # models/emoji, 5 steps, a quarter of an hour
    python benchmarks/learned_sampler.py --steps 3 --iterations 80

Learning descends the kernel distance (the unbiased squared MMD of the features of an ImageNet network) between pictures
that are drawn of fixed captions and real pictures, fresh noise and other real pictures in each iteration; it starts at
DPM-Solver++(2M) on the trailing path, without guidance. Then other captions are drawn with noise that learning has not
seen, by the start, by what was learned, and by the sampler of `tuned.json`, which was fitted to exact trajectories by
least squares. Printed: the kernel distance to real pictures, with what real pictures have to each other, and the root
mean square distance of the latents to those of 100 steps of DPM-Solver++.
"""

import argparse
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor, nn

from ldm.build import Model
from ldm.core.precision import autocast, narrow
from ldm.core.rng import NoiseStream, fold
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser, bind
from ldm.evaluation.encoded import Pictures, read_pictures
from ldm.evaluation.features import Features, extract, load_feature_net
from ldm.evaluation.frechet import kernel_distance
from ldm.model_folder import load_model
from ldm.process.grid import spaced
from ldm.samplers.learned import Coefficients, like_dpm_solver, sample
from ldm.samplers.tuned import load_tuned
from ldm.training.learn_sampler import learn_sampler

CPU, EXACT, AT_ONCE = torch.device("cpu"), 100, 16


def features_of(model: Model, net: nn.Module, z: Latent) -> Features:
    """What the network sees in decoded latents, differentiable."""
    features: Features = net(model.codec.decode(z).float().clamp(-1, 1)).float()
    return features


def asked(model: Model, captions: tuple[str, ...]) -> Denoiser:
    """The denoiser for captions, without guidance."""
    with torch.no_grad():
        return bind(model.denoise, model.condition(list(captions), shape_of(model)[1:]))


def shape_of(model: Model) -> tuple[int, int, int]:
    """Of a latent (c, h, w)."""
    side = model.config.sample.size
    return model.codec.latent_shape(side, side)


def noise_of(model: Model, n: int, *name: str | int) -> Latent:
    """Standard normal latents."""
    return NoiseStream([fold(0, *name, i) for i in range(n)]).normal((n, *shape_of(model)))


def learned(model: Model, net: nn.Module, seen: Pictures, options: argparse.Namespace) -> Coefficients:
    """The sampler that descends the kernel distance; prints how it falls."""
    real = extract(net, seen.images)
    draw = random.Random(fold(0, "captions"))
    denoise = asked(model, tuple(draw.sample(seen.captions, options.batch)))
    history: list[float] = []

    def some_real(step: int) -> Features:
        rows = random.Random(fold(0, "real", step)).sample(range(len(real)), min(4 * options.batch, len(real)))
        return real[rows]

    def seen_features(z: Latent) -> Features:
        found = features_of(model, net, z)
        history.append(kernel_distance(found.detach(), real))
        if len(history) % 10 == 0:
            print(f"iteration {len(history)}: kernel distance {sum(history[-10:]) / 10:.4f}", flush=True)
        return found

    grid = spaced(model.schedule, options.steps, "trailing")
    with autocast(CPU, narrow(CPU)):
        return learn_sampler(
            denoise,
            like_dpm_solver(grid),
            lambda step: noise_of(model, options.batch, "learn", step),
            some_real,
            seen_features,
            steps=options.iterations,
            lr=options.lr,
        )


@torch.no_grad()
def drawn(model: Model, captions: tuple[str, ...], how: Coefficients) -> Tensor:
    """Latents of captions, each with noise of its own."""
    noise, found = noise_of(model, len(captions), "judge"), []
    for at in range(0, len(captions), AT_ONCE):
        rows = slice(at, at + AT_ONCE)
        with autocast(CPU, narrow(CPU)):
            found.append(sample(asked(model, captions[rows]), noise[rows], how).float())
    return torch.cat(found)


def main() -> None:
    """Learn, then print what was gained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "emoji" / "train")
    parser.add_argument("--steps", type=int, default=5, help="of the sampler")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16, help="pictures drawn in an iteration")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--samples", type=int, default=128, help="captions to judge by, and as many real pictures")
    options = parser.parse_args()
    if not 2 <= options.batch <= options.samples:
        raise ValueError(f"--batch: {options.batch} is outside 2 to --samples, {options.samples}")
    if options.iterations < 1:
        raise ValueError(f"--iterations: {options.iterations}; give 1 or more")
    model, net = load_model(options.model), load_feature_net()
    fitted = load_tuned(options.model, model.sha256).fitted(options.steps, 1.0)
    pictures = read_pictures([options.data], model.config.sample.size, 3 * options.samples, 0)
    if len(pictures) < 3 * options.samples:
        raise ValueError(f"--samples: 3 x {options.samples} pictures are needed, {options.data} has {len(pictures)}")
    parts = [slice(i * options.samples, (i + 1) * options.samples) for i in range(3)]
    order = random.Random(fold(0, "parts")).sample(range(len(pictures)), len(pictures))
    seen, judged, others = (
        Pictures(
            pictures.images[order[part]],
            tuple(pictures.captions[i] for i in order[part]),
            tuple(pictures.names[i] for i in order[part]),
        )
        for part in parts
    )
    start = like_dpm_solver(spaced(model.schedule, options.steps, "trailing"))
    samplers = {"DPM-Solver++(2M)": start, "learned (DDSS)": learned(model, net, seen, options)}
    samplers["fitted (tuned.json)"] = fitted
    exact = drawn(model, judged.captions, like_dpm_solver(spaced(model.schedule, EXACT, "trailing")))
    real = extract(net, torch.cat([others.images, judged.images]))
    print(f"\n{options.model}: {options.steps} steps, {options.samples} captions\n")
    print("| sampler | kernel distance | distance of latents |\n|---|---:|---:|")
    for name, how in {**samplers, f"{EXACT} steps": None}.items():
        z = exact if how is None else drawn(model, judged.captions, how)
        with torch.no_grad():
            found = torch.cat([features_of(model, net, some) for some in z.split(AT_ONCE)])
        off = (z - exact).square().mean().sqrt().item()
        print(f"| {name} | {kernel_distance(found, real):.4f} | {off:.4f} |", flush=True)
    floor = kernel_distance(extract(net, seen.images), real)
    print(f"| real pictures | {floor:.4f} | |")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
