r"""What fine-tuning costs and gives, on black pictograms, a style that the shipped model has never seen.

    python scripts/prepare_emoji.py --styles high-contrast --out data/pictograms
    python benchmarks/finetune.py pictures                    # 40 of them with plain captions: data/pictograms-40
    python scripts/finetune.py --data data/pictograms-40 --token "black pictogram" \
        --config configs/finetune/pictograms.yaml
    python benchmarks/finetune.py figures                     # style of new concepts, concepts of old prompts
    python benchmarks/finetune.py start                       # seconds from the command to the first step, 200 pictures

figures: prompts "<concept>, black pictogram" of concepts that are not among the 40. Each picture is called by the style
of most of its five nearest real pictures (EfficientNet features, cosine), of four styles with as many pictures each and
none of the 40. Next to it what real pictures score, their own concept left out, and what the model draws without the
LoRA. Then the concept accuracy of training captions, as scripts/evaluate.py has it, with and without the LoRA, same
prompts and seeds; none has the LoRA's word. The error of the difference is that of paired pictures.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WORD, STYLE, COUNT, SEED = "black pictogram", "high-contrast", 40, 0


def choose(source: Path, old: Path, out: Path, count: int) -> list[str]:
    """Copy `count` pictures whose concepts are in both folders, with their plain names as captions; their concepts."""
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    known = {json.loads(line)["concept"] for line in (old / "metadata.jsonl").read_text().splitlines()}
    chosen = random.Random(SEED).sample([row for row in rows if row["concept"] in known], count)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for row in chosen:
        picture = out / Path(row["file_name"]).name
        shutil.copy(source / row["file_name"], picture)
        picture.with_suffix(".txt").write_text(row["name"] + "\n")
    return [row["concept"] for row in chosen]


def figures(options: argparse.Namespace) -> None:
    """Print how often new concepts get the new style, and what the LoRA costs old prompts."""
    from ldm.core.images import grid, save_png
    from ldm.evaluation.features import extract, load_feature_net
    from ldm.evaluation.gallery import labelled_features
    from ldm.evaluation.report import one_per_concept
    from ldm.evaluation.style import balanced, real_rate, some_concepts
    from ldm.evaluation.table import as_table
    from ldm.inference.adapters import adaptable, read
    from ldm.model_folder import load_model
    from ldm.nets.lora import merged

    net, size = load_feature_net(), 128
    new, old = (labelled_features(net, path / "train", size) for path in (options.pictograms, options.emoji))
    learned = [path.stem for path in options.pictures.glob("*.png")]
    styles = balanced([new, old], learned)
    concepts = some_concepts(styles, options.samples, SEED)
    asked = one_per_concept(old, options.samples, SEED)
    prompts = [f"{name_of(concept, new)}, {WORD}" for concept in concepts]

    model = load_model(options.model)
    lora = read(model, str(options.lora)).lora
    told = model.passing_over(lora.words)
    features: dict[str, tuple] = {}
    for name, scale in (("without LoRA", 0.0), ("with LoRA", 1.0)):
        with merged(adaptable(model), lora, scale, str(options.lora)):
            images = [draw(told if scale else model, texts, options.steps) for texts in (prompts, asked.captions)]
        features[name] = tuple(extract(net, each) for each in images)
        if options.grid is not None and scale:
            save_png(grid(images[0][:32], 8), options.grid)
    print(f"{options.model}, {options.lora}: {options.samples} samples, {options.steps} steps, seed {SEED}\n")
    print(as_table([*style_rows(features, styles, real_rate(styles, STYLE)), *old_rows(features, asked, old)]))


def draw(model, prompts, steps):
    """Pictures (n, 3, h, w) of prompts, each with a seed folded from its prompt and place."""
    from ldm.core.rng import fold
    from ldm.inference.pipeline import Request, txt2img

    seeds = tuple(fold(SEED, "picture", prompt, i) for i, prompt in enumerate(prompts))
    return txt2img(model, Request(prompts=tuple(prompts), seeds=seeds, steps=steps, batch=16))


def name_of(concept: str, new) -> str:
    """A concept as captions name it."""
    return new.captions[new.concepts.index(concept)].partition(",")[0]


def style_rows(features, styles, real: float):
    """Shares of drawn new concepts that are called pictograms, without and with the LoRA, beside those of real ones."""
    from ldm.evaluation.style import style_of
    from ldm.evaluation.table import Row

    rows = [Row("real pictograms", "called pictograms", real, None, len(styles.concepts))]
    for name, (found, _) in features.items():
        hits = [called == STYLE for called in style_of(found, styles.gallery)]
        share, n = sum(hits) / len(hits), len(hits)
        rows.append(Row(f"new concepts, {name}", "called pictograms", share, (share * (1 - share) / n) ** 0.5, n))
    return rows


def old_rows(features, asked, gallery):
    """Concept accuracy of old prompts without and with the LoRA, and the change of it, picture by picture."""
    import torch

    from ldm.evaluation.concepts import TOP, nearest_concepts
    from ldm.evaluation.report import judge
    from ldm.evaluation.table import Row, mean_row

    rows: list[Row] = []
    hits: dict[int, list[torch.Tensor]] = {1: [], TOP: []}
    for name, (_, found) in features.items():
        overall = judge(found, asked, gallery).overall
        rows.append(Row(f"old prompts, {name}", "top-1", overall.top1, overall.top1_error, overall.n))
        rows.append(Row(f"old prompts, {name}", "top-5", overall.top5, overall.top5_error, overall.n))
        nearest = nearest_concepts(found, gallery.features, gallery.concepts, TOP)
        for k, of_each in hits.items():
            right = [concept in row[:k] for row, concept in zip(nearest, asked.concepts, strict=True)]
            of_each.append(torch.tensor(right).float())
    changes = [mean_row("old prompts, change", f"top-{k}", after - before) for k, (before, after) in hits.items()]
    return [*rows, *changes]


def start(options: argparse.Namespace) -> None:
    """Seconds from the command to the line that the first step is done, with 200 pictures and no cache."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pictures, out = Path(folder) / "pictures", Path(folder) / "run"
        choose(options.pictograms / "train", options.emoji / "train", pictures, 200)
        words = ["--data", pictures, "--token", WORD, "--out", out, "--set", f"data.cache={folder}/cache"]
        began = time.monotonic()
        command = [sys.executable, ROOT / "scripts" / "finetune.py", *words]
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("first step"):
                    print(f"{time.monotonic() - began:.1f} s to the first step; the run says: {line.strip()}")
                    break
            process.kill()


def main() -> None:
    """Choose the pictures, print the figures, or time the start."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["pictures", "figures", "start"])
    p.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    p.add_argument("--lora", type=Path, default=Path("runs/finetune/lora/lora.safetensors"))
    p.add_argument("--pictograms", type=Path, default=Path("data/pictograms"), help="of prepare_emoji.py")
    p.add_argument("--emoji", type=Path, default=Path("data/emoji"), help="what the model was trained on")
    p.add_argument("--pictures", type=Path, default=Path("data/pictograms-40"), help="what the LoRA is trained on")
    p.add_argument("--samples", type=int, default=200, help="pictures of each kind")
    p.add_argument("--steps", type=int, default=10, help="in which they are drawn")
    p.add_argument("--grid", type=Path, help="PNG to write: 32 of the new concepts")
    options = p.parse_args()
    if options.what == "pictures":
        concepts = choose(options.pictograms / "train", options.emoji / "train", options.pictures, COUNT)
        print(f"{options.pictures}: {', '.join(concepts)}")
    elif options.what == "figures":
        figures(options)
    else:
        start(options)


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
