"""Does the model draw what it is asked for? Concept accuracy of drawn pictures, next to that of real ones."""

import random
from collections.abc import Callable, Sequence

from torch import nn

from ldm.core.rng import fold
from ldm.core.shapes import Image
from ldm.evaluation.concepts import ConceptAccuracy, concept_accuracy
from ldm.evaluation.features import Features, extract
from ldm.evaluation.frechet import FRECHET_NAME, KERNEL_NAME, frechet_distance, kernel_distance
from ldm.evaluation.gallery import Labelled
from ldm.evaluation.style import in_style
from ldm.evaluation.table import Row

STYLE_NAME = "in the style"
Draw = Callable[[Sequence[str], Sequence[int]], Image]
"""(prompts, seeds) -> pictures (n, 3, h, w) in [-1, 1], picture i a function of prompt i and seed i alone."""


def one_per_concept(data: Labelled, n: int, seed: int) -> Labelled:
    """One picture each of `n` concepts, both drawn at random; of every concept where there are fewer.

    Raises:
        ValueError: `n` is not positive.
    """
    _require_positive(n)
    rng = random.Random(fold(seed, "concepts"))
    rows_of: dict[str, list[int]] = {}
    for row, concept in enumerate(data.concepts):
        rows_of.setdefault(concept, []).append(row)
    concepts = rng.sample(sorted(rows_of), min(n, len(rows_of)))
    return data.select([rng.choice(rows_of[concept]) for concept in concepts])


def some(data: Labelled, n: int, seed: int) -> Labelled:
    """`n` pictures drawn at random without replacement; all of them where there are fewer.

    Raises:
        ValueError: `n` is not positive.
    """
    _require_positive(n)
    rows = random.Random(fold(seed, "pictures")).sample(range(len(data.concepts)), min(n, len(data.concepts)))
    return data.select(rows)


def drawn(draw: Draw, asked: Labelled, seed: int) -> Image:
    """Pictures for the captions of `asked`, each with its own seed folded from `seed`, its caption and its position."""
    seeds = [fold(seed, "picture", caption, i) for i, caption in enumerate(asked.captions)]
    return draw(asked.captions, seeds)


def trained_concept_rows(net: nn.Module, images: Image, asked: Labelled, gallery: Labelled) -> list[Row]:
    """Accuracy of pictures drawn for concepts in styles that training has seen, over all and by style."""
    return accuracy_rows("training concepts, drawn", judge(extract(net, images), asked, gallery))


def heldout_cell_rows(net: nn.Module, images: Image, cells: Labelled, gallery: Labelled) -> list[Row]:
    """The same for held-out cells, concepts in a style that training has not seen them in, next to the real pictures.

    The real pictures of the cells bound what the measure can give: they are right by definition, and the nearest
    training picture is in another style. The ratio drawn / real is the share of that bound which the model reaches.
    The style is that of most of the nearest real pictures of other concepts. Distances are between `images`, or the
    real pictures, and the whole gallery, so the two are of equal numbers.
    """
    features = extract(net, images)
    ours, real = judge(features, cells, gallery), judge(cells.features, cells, gallery)
    rows = accuracy_rows("held-out cells, drawn", ours) + accuracy_rows("held-out cells, real", real)
    n = ours.overall.n
    for name, share, bound in (
        ("top-1", ours.overall.top1, real.overall.top1),
        ("top-5", ours.overall.top5, real.overall.top5),
    ):
        rows.append(Row("held-out cells, drawn / real", name, share / bound if bound else float("nan"), None, n))
    for pictures, found in (("held-out cells, drawn", features), ("held-out cells, real", cells.features)):
        hits = in_style(found, cells, gallery)
        share = sum(hits) / n
        rows.append(Row(pictures, STYLE_NAME, share, (share * (1 - share) / n) ** 0.5, n))
        rows.append(Row(pictures, FRECHET_NAME, frechet_distance(found, gallery.features), None, n))
        rows.append(Row(pictures, KERNEL_NAME, kernel_distance(found, gallery.features), None, n))
    return rows


def judge(features: Features, asked: Labelled, gallery: Labelled) -> ConceptAccuracy:
    """`concept_accuracy` of features against what was asked for."""
    return concept_accuracy(features, asked.concepts, asked.styles, gallery.features, gallery.concepts)


def accuracy_rows(pictures: str, accuracy: ConceptAccuracy) -> list[Row]:
    """Top-1 and top-5 over all pictures, then by style, with binomial standard errors."""
    rows = []
    for style, hits in [("", accuracy.overall), *accuracy.by_style.items()]:
        name = f"{pictures}, {style}" if style else pictures
        rows.append(Row(name, "top-1", hits.top1, hits.top1_error, hits.n))
        rows.append(Row(name, "top-5", hits.top5, hits.top5_error, hits.n))
    return rows


def _require_positive(n: int) -> None:
    if n < 1:
        raise ValueError(f"samples: {n} pictures; give 1 or more")
