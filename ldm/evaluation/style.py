"""Does a picture have the style that it was asked for? The style of most of the real pictures nearest to it."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ldm.core.rng import fold
from ldm.evaluation.concepts import nearest_concepts
from ldm.evaluation.features import Features
from ldm.evaluation.gallery import Labelled

NEAREST = 5


def style_of(features: Features, gallery: Labelled, k: int = NEAREST) -> list[str]:
    """The style of most of the `k` gallery pictures nearest to each picture by cosine; of equals, the nearer one.

    Args:
        features: pictures to judge (n, d).
        gallery: real pictures, as many of each style, so that chance favours none.
        k: pictures to look at.
    """
    return [
        Counter(row).most_common(1)[0][0] for row in nearest_concepts(features, gallery.features, gallery.styles, k)
    ]


def in_style(features: Features, asked: Labelled, gallery: Labelled, k: int = NEAREST) -> list[bool]:
    """Whether each picture is called by the style that was asked for, by real pictures of other concepts.

    Args:
        features: pictures to judge (n, d).
        asked: what they should show, and how (n).
        gallery: real pictures, about as many of each style; fewer than `k` of other concepts: all of them.
        k: pictures to look at.
    """
    found = []
    for i, concept in enumerate(asked.concepts):
        others = gallery.select([row for row, name in enumerate(gallery.concepts) if name != concept])
        called = style_of(features[i : i + 1], others, min(k, len(others.concepts)))
        found.append(called == [asked.styles[i]])
    return found


@dataclass(frozen=True)
class Styles:
    """Real pictures of the same concepts in every style, and what remains of them to be asked for.

    Attributes:
        gallery: one picture of each style for each concept.
        concepts: of the gallery, sorted.
    """

    gallery: Labelled
    concepts: tuple[str, ...]


def balanced(sets: Sequence[Labelled], without: Sequence[str]) -> Styles:
    """Of all concepts that every style has, but those in `without`, one picture in each style.

    Raises:
        ValueError: no concept is in every style.
    """
    all_of = Labelled(
        torch.cat([one.features for one in sets]),
        [caption for one in sets for caption in one.captions],
        [concept for one in sets for concept in one.concepts],
        [style for one in sets for style in one.styles],
    )
    row_of = {key: i for i, key in reversed(list(enumerate(zip(all_of.concepts, all_of.styles, strict=True))))}
    styles = sorted(set(all_of.styles))
    concepts = sorted({c for c in all_of.concepts if c not in without and all((c, s) in row_of for s in styles)})
    if not concepts:
        raise ValueError(f"styles: no concept is there in all of {', '.join(styles)}")
    return Styles(all_of.select([row_of[c, s] for c in concepts for s in styles]), tuple(concepts))


def real_rate(styles: Styles, style: str) -> float:
    """How often real pictures of a style are called by it, when all pictures of their concept are left out."""
    hits = []
    for concept in styles.concepts:
        rows = [i for i, name in enumerate(styles.gallery.concepts) if name != concept]
        own = [
            i for i, name in enumerate(styles.gallery.concepts) if name == concept and styles.gallery.styles[i] == style
        ]
        hits += [called == style for called in style_of(styles.gallery.features[own], styles.gallery.select(rows))]
    return sum(hits) / len(hits)


def some_concepts(styles: Styles, n: int, seed: int) -> list[str]:
    """`n` of the concepts, drawn at random."""
    return random.Random(fold(seed, "concepts")).sample(styles.concepts, min(n, len(styles.concepts)))
