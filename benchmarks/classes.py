"""What a classifier of noisy latents does to pictures: how often they are of the class that it steers to.

    python scripts/train_classifier.py --config configs/classifier/group.yaml --out runs/group
    python scripts/train_classifier.py --config configs/classifier/group.yaml --set seed=1 --out runs/judge
    python benchmarks/classes.py runs/group/classifier.safetensors group --judge runs/judge/classifier.safetensors
    python benchmarks/classes.py runs/group/classifier.safetensors group --named      # beside the guidance of a prompt

Pictures are drawn without a prompt, or with `--named` from names of things without a style, read as they are. The same
noise is steered to each class at each scale. Others than the classifier judge, by the pictures alone: the five nearest
real pictures (EfficientNet features, cosine, as many of each class), and with `--judge` a classifier of other initial
weights and noise. Chance is what scale 0 scores; the last rows say how often each is right about real pictures of
held-out concepts.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ldm.build import Model
from ldm.core.rng import fold
from ldm.core.shapes import Image
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.evaluation.features import extract, load_feature_net
from ldm.evaluation.gallery import Labelled
from ldm.evaluation.style import style_of
from ldm.evaluation.table import Row, as_table
from ldm.inference.classified import load_guidance
from ldm.inference.pipeline import Request, txt2img
from ldm.model_folder import load_model
from ldm.nets.classifier import TrainedClassifier, load_classifier

SEED, CLEAN = 0, 20.0  # nats


def column_of(folder: Path, column: str) -> list[str]:
    """A column of the metadata of a folder, in its order."""
    return [json.loads(line)[column] for line in (folder / "metadata.jsonl").read_text().splitlines()]


def pictures_of(folder: Path, size: int) -> Image:
    """All pictures of a folder, on white."""
    found = ImageFolder(FolderSpec(path=str(folder), size=size))
    return torch.stack([found[i].image for i in range(len(found))])


def equal_numbers(classes: list[str]) -> list[int]:
    """Rows of which every class has as many, drawn at random."""
    rows = {label: [i for i, found in enumerate(classes) if found == label] for label in sorted(set(classes))}
    count = min(map(len, rows.values()))
    return [i for label in rows for i in random.Random(SEED).sample(rows[label], count)]


class Neighbours:
    """Judges a picture by the real pictures nearest to it."""

    name = "nearest real pictures"

    def __init__(self, folder: Path, classes: list[str], size: int):
        self._net, rows = load_feature_net(), equal_numbers(classes)
        found = ImageFolder(FolderSpec(path=str(folder), size=size))
        features = torch.cat([extract(self._net, found[i].image[None]) for i in rows])
        labels = [classes[i] for i in rows]
        self._gallery = Labelled(features, labels, labels, labels)

    def __call__(self, images: Image) -> list[str]:
        """The class of each picture."""
        return style_of(extract(self._net, images), self._gallery)


class Judge:
    """Judges a picture by a classifier of its latent, taken for clean."""

    name = "a second classifier"

    def __init__(self, model: Model, classifier: TrainedClassifier):
        self._codec, self._classifier = model.codec, classifier

    @torch.inference_mode()
    def __call__(self, images: Image) -> list[str]:
        """The class of each picture."""
        parts = [self._codec.posterior(part).mean for part in images.split(16)]
        logits = torch.cat([self._classifier.net(z.float(), torch.full((len(z),), CLEAN)) for z in parts])
        return [self._classifier.classes[i] for i in logits.argmax(1).tolist()]


def steered(model: Model, classifier: Path, label: str, scale: float, prompts: tuple[str, ...], steps: int) -> Image:
    """One picture for each prompt, from the same noise whatever the label."""
    seeds = tuple(fold(SEED, "picture", i) for i in range(len(prompts)))
    towards = load_guidance(classifier, model, label, scale)
    free = None if any(prompts) else 1.0
    return txt2img(model, Request(prompts=prompts, seeds=seeds, steps=steps, scale=free, towards=towards, batch=16))


def main() -> None:
    """Print the share of pictures of the asked class for each judge and scale."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("classifier", type=Path)
    p.add_argument("column", help="of the metadata, that the classifier was trained on")
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji" / "train")
    p.add_argument("--judge", type=Path, help="another classifier of the same column")
    p.add_argument("--scales", type=float, nargs="+", default=[0, 1, 4, 16])
    p.add_argument("--samples", type=int, default=24, help="pictures of each class at each scale")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--named", action="store_true", help="draw things by name, guided by the prompt too")
    options = p.parse_args()

    model = load_model(options.model).as_written()
    size, classes = model.config.sample.size, column_of(options.data, options.column)
    judges: list[Neighbours | Judge] = [Neighbours(options.data, classes, size)]
    if options.judge is not None:
        judges.append(Judge(model, load_classifier(options.judge)))
    names = random.Random(SEED).sample(sorted(set(column_of(options.data, "name"))), options.samples)
    prompts = tuple(names) if options.named else ("",) * options.samples
    asked = [(scale, label) for scale in options.scales for label in sorted(set(classes))]
    drawn = {a: steered(model, options.classifier, a[1], a[0], prompts, options.steps) for a in asked}
    held_out = options.data.parent / "heldout_concepts"
    real = pictures_of(held_out, size), column_of(held_out, options.column)
    rows = []
    for judge in judges:
        hits = {a: [found == a[1] for found in judge(images)] for a, images in drawn.items()}
        for scale in options.scales:
            here = [hit for a, found in hits.items() if a[0] == scale for hit in found]
            rows.append(_row(judge.name, f"scale {scale:g}", here))
        for label in sorted(set(classes)):
            rows.append(_row(judge.name, f"scale {options.scales[-1]:g}, {label}", hits[options.scales[-1], label]))
        rows.append(_row(judge.name, "real pictures", [a == b for a, b in zip(judge(real[0]), real[1], strict=True)]))
    what = "things by name" if options.named else "no prompt"
    print(f"{options.model}, {options.classifier}: {what}, {options.steps} steps, seed {SEED}\n\n{as_table(rows)}")


def _row(judge: str, what: str, hits: list[bool]) -> Row:
    share = sum(hits) / len(hits)
    return Row(judge, what, share, (share * (1 - share) / len(hits)) ** 0.5, len(hits))


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
