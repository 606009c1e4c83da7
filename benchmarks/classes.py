"""What a classifier of noisy latents does to pictures: how often they are of the class that it steers to.

    python scripts/train_classifier.py --config configs/classifier/group.yaml --out runs/group
    python benchmarks/classes.py runs/group/classifier.safetensors group       # food, animals, ...
    python benchmarks/classes.py runs/style/classifier.safetensors style       # a style of drawing
    python benchmarks/classes.py ... --named                                   # beside the guidance of a prompt

Pictures are drawn without a prompt, or with `--named` from names of things without a style, read as they are. The same
noise is steered to each class at each scale. Another network than the classifier judges: a picture is of the class of
most of its five nearest real pictures (EfficientNet features, cosine), as many of each class. Chance
is what scale 0 scores.
"""

import argparse
import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SEED = 0


def equal_numbers(classes: list[str]) -> list[int]:
    """Rows of a gallery of which every class has as many, drawn at random."""
    rows = {label: [i for i, found in enumerate(classes) if found == label] for label in sorted(set(classes))}
    count = min(map(len, rows.values()))
    return [i for label in rows for i in random.Random(SEED).sample(rows[label], count)]


def main() -> None:
    """Print the share of pictures of the asked class for each scale."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("classifier", type=Path)
    p.add_argument("column", help="of the metadata, that the classifier was trained on")
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    p.add_argument("--data", type=Path, default=ROOT / "data" / "emoji" / "train")
    p.add_argument("--scales", type=float, nargs="+", default=[0, 1, 4, 16])
    p.add_argument("--samples", type=int, default=24, help="pictures of each class at each scale")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--named", action="store_true", help="draw things by name, guided by the prompt too")
    options = p.parse_args()

    from dataclasses import replace

    from ldm.core.rng import fold
    from ldm.evaluation.features import extract, load_feature_net
    from ldm.evaluation.gallery import labelled_features
    from ldm.evaluation.style import style_of
    from ldm.evaluation.table import Row, as_table
    from ldm.inference.classified import load_guidance
    from ldm.inference.pipeline import Request, txt2img
    from ldm.model_folder import load_model

    model = load_model(options.model).as_written()
    net = load_feature_net()
    columns = [json.loads(line) for line in (options.data / "metadata.jsonl").read_text().splitlines()]
    classes = [row[options.column] for row in columns]
    gallery = replace(labelled_features(net, options.data, model.config.sample.size), styles=classes)
    gallery = gallery.select(equal_numbers(classes))
    names = random.Random(SEED).sample(sorted({row["name"] for row in columns}), options.samples)
    prompts = tuple(names) if options.named else ("",) * options.samples
    seeds = tuple(fold(SEED, "picture", i) for i in range(options.samples))
    rows = []
    for scale in options.scales:
        hits = []
        for label in sorted(set(classes)):
            towards = load_guidance(options.classifier, model, label, scale)
            asked = Request(prompts=prompts, seeds=seeds, steps=options.steps, towards=towards, batch=16)
            images = txt2img(model, asked if options.named else replace(asked, scale=1.0))
            hits += [found == label for found in style_of(extract(net, images), gallery)]
        share, n = sum(hits) / len(hits), len(hits)
        rows.append(
            Row(f"scale {scale:g}", f"of the {options.column} asked", share, (share * (1 - share) / n) ** 0.5, n)
        )
    what = "things by name" if options.named else "no prompt"
    print(f"{options.model}, {options.classifier}: {what}, {options.steps} steps, seed {SEED}\n\n{as_table(rows)}")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
