"""Pictures for N evaluations: our automatic choice beside every deterministic scheduler of diffusers at its best.

    python benchmarks/samplers.py                                     # the shipped model, 256 prompts: hours on 2 cores
    python benchmarks/samplers.py --prompts 64 --reference-steps 100  # a first look

All draw the same captions from the same noise with the same network, guided and unguided. The measure is how far from
the exact solution of the probability-flow equation each ends: root mean square over all numbers of the latents. Every
scheduler gets the best of its settings for each N, chosen on `--screen` prompts that are not in the comparison, and the
`--finalists` best schedulers of each N draw all prompts. One evaluation is one call of the network for a picture,
guided or not; a scheduler that needs more than N of them is given fewer steps. For ours and for the best rival of each
N, pictures are decoded: LPIPS to the reference's picture, Frechet distance to the training pictures, and concept
accuracy.

The reference is a third-order solver through `--reference-steps` levels; its own error is printed, as the distance to
1000 levels on a few prompts. Everything that was drawn is kept in `--cache`, so that a stopped run goes on. Written to
`--out`: samplers.csv and samplers.png.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import load_file, save

from autoencoder.perceptual import load_lpips, perceptual_distance
from benchmarks import rivals
from benchmarks.sampler_table import OURS, Result, save_csv, save_plot, show
from ldm.build import Model, automatic, build_grid, build_sampler, build_tables
from ldm.config import SampleSpec
from ldm.core.bundle import write_atomically
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Image, Latent
from ldm.denoiser import Denoised
from ldm.evaluation.drawing import Drawing, drawing
from ldm.evaluation.features import extract, load_feature_net
from ldm.evaluation.frechet import frechet_distance
from ldm.evaluation.gallery import Labelled, labelled_features
from ldm.evaluation.matched import rms
from ldm.evaluation.report import judge, one_per_concept
from ldm.guidance.spec import GuidanceSpec
from ldm.model_folder import load_model
from ldm.process.grid import spaced
from ldm.samplers import dpm_solver

ROOT = Path(__file__).resolve().parent.parent
CHUNK, CHECKED = 16, 4
Run = Callable[[Drawing], Latent]


class Bench:
    """Draws in chunks, and keeps what was drawn."""

    def __init__(self, model: Model, captions: Sequence[str], cache: Path, seed: int):
        self.model, self.captions, self.cache, self.seed = model, list(captions), cache, seed
        cache.mkdir(parents=True, exist_ok=True)

    def drawn(self, name: str, scale: float, run: Run) -> Latent:
        """What `run` makes of all captions, from the cache where it is there."""
        parts = [self.model.sha256, *self.captions, f"{self.seed} {scale:g} {name}"]
        path = self.cache / f"{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:24]}.safetensors"
        if not path.is_file():
            chunks = []
            for start in range(0, len(self.captions), CHUNK):
                part = drawing(self.model, self.captions[start : start + CHUNK], scale, self.seed, f"bench {start}")
                chunks.append(self._run(part, run))
            write_atomically(path, save({"z": torch.cat(chunks)}))
        return load_file(path)["z"]

    @torch.inference_mode()
    def _run(self, part: Drawing, run: Run) -> Latent:
        return run(part).float().cpu().contiguous()


def ours(model: Model, steps: int, scale: float) -> tuple[str, Run]:
    """What `--steps` alone gives, and its name."""
    spec = automatic(SampleSpec(sampler="dpm_solver", steps=steps, scale=scale), model)
    tables = build_tables(spec, model)
    grid, sample = build_grid(spec, model.schedule, tables), build_sampler(spec, tables)

    def run(drawn: Drawing) -> Latent:
        denoise = spec.guidance.limited(drawn.denoise, drawn.plain)
        return sample(denoise, drawn.x, grid, NoiseStream([0] * len(drawn.x)))

    guided = sum(inside(level, spec.guidance) for level in grid.logsnr.tolist()[:-1])
    return f"{spec.sampler} {spec.spacing}" + (f", {guided} guided" if scale != 1 else ""), run


def inside(level: float, guidance: GuidanceSpec) -> bool:
    """Whether a level is one of those that are guided."""
    return (guidance.lo is None or guidance.lo <= level) and (guidance.hi is None or level <= guidance.hi)


def theirs(model: Model, kind: str, options: dict[str, Any], steps: int, per_step: int) -> Run:
    """A scheduler of diffusers with at most `steps` evaluations."""

    def run(drawn: Drawing) -> Latent:
        calls = 0

        def counting(x_t: Latent, logsnr: torch.Tensor) -> Denoised:
            nonlocal calls
            calls += 1
            return drawn.denoise(x_t, logsnr)

        own = steps if per_step == 1 else (steps + 1) // per_step
        for fewer in range(2):
            calls = 0
            scheduler = rivals.configured(kind, model.schedule, **options)
            found = rivals.draw(scheduler, counting, drawn.x, max(1, own - fewer))
            if calls <= steps:
                return found
        raise ValueError(f"{kind}: {calls} evaluations for {steps}")

    return run


def screened(bench: Bench, end: Latent, scale: float, steps: int) -> list[tuple[float, str, dict[str, Any]]]:
    """Every scheduler with its best setting for `steps`, nearest to `end` first; those that cannot run are left out."""
    found = []
    for name, (kind, settings, per_step) in rivals.RIVALS.items():
        best = None
        for options in settings:
            label = f"{name} {json.dumps(options, sort_keys=True)} {steps}"
            try:
                z = bench.drawn(label, scale, theirs(bench.model, kind, options, steps, per_step))
            except Exception as error:  # a rival's own failure is a result too
                sys.stderr.write(f"{label}: {type(error).__name__}: {error}\n")
                continue
            distance = rms(z - end)
            if distance == distance and (best is None or distance < best[0]):
                best = (distance, name, options)
        if best is not None:
            found.append(best)
    return sorted(found, key=lambda f: f[0])


def line(scale: float, steps: int, name: str, setting: str, z: Latent, end: Latent) -> Result:
    """Distances of one sampler, with the standard error over pictures of the mean square, carried to its root."""
    squares = (z - end).double().square().flatten(1).mean(1)
    distance = squares.mean().sqrt().item()
    error = squares.std().item() / len(squares) ** 0.5 / max(2 * distance, 1e-12) if len(squares) > 1 else float("nan")
    return Result(scale=scale, steps=steps, name=name, setting=setting, distance=distance, error=error)


class Looks:
    """Figures of decoded pictures."""

    def __init__(self, model: Model, asked: Labelled, gallery: Labelled):
        self.model, self.asked, self.gallery = model, asked, gallery
        self.lpips, self.net = load_lpips(), load_feature_net()

    def of(self, result: Result, z: Latent, reference: Image) -> Result:
        """`result` with its figures of pictures."""
        images = self.decoded(z)
        features = extract(self.net, images)
        with torch.inference_mode():
            lpips = perceptual_distance(self.lpips, images, reference).mean().item()
        return replace(
            result,
            lpips=lpips,
            frechet=frechet_distance(features, self.gallery.features),
            top1=judge(features, self.asked, self.gallery).overall.top1,
        )

    @torch.inference_mode()
    def decoded(self, z: Latent) -> Image:
        """Pictures of latents."""
        return torch.cat([self.model.codec.decode(part).float().clamp(-1, 1) for part in z.split(CHUNK)])


def compared(options: argparse.Namespace) -> list[Result]:
    """The whole table, printed as it grows."""
    model = load_model(options.model)
    net = load_feature_net()
    gallery = labelled_features(net, options.data / "train", model.config.sample.size)
    chosen = one_per_concept(gallery, options.prompts + options.screen, options.seed)
    asked = chosen.select(range(options.screen, len(chosen.captions)))
    bench = Bench(model, asked.captions, options.cache, options.seed)
    screen = Bench(model, chosen.captions[: options.screen], options.cache, options.seed)
    looks, results = Looks(model, asked, gallery), []
    for scale in options.scales:
        end = bench.drawn(f"reference {options.reference_steps}", scale, reference(model, options.reference_steps))
        check_reference(model, asked.captions, options, scale)
        screen_end = screen.drawn(
            f"reference {options.reference_steps}", scale, reference(model, options.reference_steps)
        )
        shown = looks.decoded(end)
        results.append(looks.of(line(scale, options.reference_steps, "reference", "", end, end), end, shown))
        for steps in options.steps:
            setting, run = ours(model, steps, scale)
            z = bench.drawn(f"{OURS} {setting} {steps} {tables_hash(options.model)}", scale, run)
            found = [looks.of(line(scale, steps, OURS, setting, z, end), z, shown)]
            rows = []
            for _, name, rival_options in screened(screen, screen_end, scale, steps)[: options.finalists]:
                kind, _, per_step = rivals.RIVALS[name]
                label = json.dumps(rival_options, sort_keys=True)
                z = bench.drawn(f"{name} {label} {steps}", scale, theirs(model, kind, rival_options, steps, per_step))
                rows.append((line(scale, steps, name, label, z, end), z))
            rows.sort(key=lambda row: row[0].distance)
            found += [looks.of(row, z, shown) if i == 0 else row for i, (row, z) in enumerate(rows)]
            for result in found:
                show(result, found[0].distance)
            results += found
    return results


def reference(model: Model, steps: int) -> Run:
    """A third-order solver through many levels, even in log-SNR: of all spacings the one that converges fastest."""
    grid = spaced(model.schedule, steps, "uniform_logsnr")
    return lambda drawn: dpm_solver.sample(drawn.denoise, drawn.x, grid, order=3)


def check_reference(model: Model, captions: Sequence[str], options: argparse.Namespace, scale: float) -> None:
    """Print how far the reference is from 1000 levels."""
    if options.reference_steps < model.schedule.steps:
        few = Bench(model, captions[:CHECKED], options.cache, options.seed)
        short = few.drawn(f"reference {options.reference_steps}", scale, reference(model, options.reference_steps))
        long = few.drawn("reference all", scale, reference(model, model.schedule.steps))
        print(
            f"scale {scale:g}: the reference is {rms(short - long):.5f} from {model.schedule.steps} levels", flush=True
        )


def tables_hash(folder: Path) -> str:
    """Of the tuned tables, whose change makes other pictures."""
    path = folder / "tuned.json"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "none"


def main() -> None:
    """Measure all samplers, write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "emoji", help="captions and their pictures")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--screen", type=int, default=16, help="further prompts, to choose settings of rivals on")
    parser.add_argument("--finalists", type=int, default=3, help="rivals of each N that draw all prompts")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 5, 8, 10, 15, 20, 50])
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 1.0])
    parser.add_argument("--reference-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "samplers")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = compared(options)
    save_csv(results, options.out / "samplers.csv")
    save_plot(results, options.out / "samplers.png")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
