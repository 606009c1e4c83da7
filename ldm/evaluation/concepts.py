"""Concept accuracy: does a picture look most like the training pictures of the concept it was asked to show?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ldm.evaluation.features import Features, Gallery

TOP = 5


@dataclass(frozen=True)
class Hits:
    """Shares of `n` pictures in [0, 1]."""

    n: int
    top1: float
    top5: float

    @property
    def top1_error(self) -> float:
        """Binomial standard error of `top1`."""
        return _binomial_error(self.top1, self.n)

    @property
    def top5_error(self) -> float:
        """Binomial standard error of `top5`."""
        return _binomial_error(self.top5, self.n)


@dataclass(frozen=True)
class ConceptAccuracy:
    """Hits over all pictures, and over those of each style in alphabetical order."""

    overall: Hits
    by_style: dict[str, Hits]


def nearest_concepts(
    features: Features, gallery_features: Gallery, gallery_concepts: Sequence[str], k: int = TOP
) -> list[list[str]]:
    """Concepts of the `k` gallery pictures nearest to each picture by cosine, nearest first.

    A concept appears as often as its pictures do: these are k pictures, not k distinct concepts.

    Args:
        features: pictures to name (n, d).
        gallery_features: pictures with known concepts (m, d).
        gallery_concepts: the m concepts.
        k: pictures to return, in 1..m.

    Raises:
        ValueError: the gallery has another number of concepts than of pictures, or fewer than `k`.
    """
    if len(gallery_concepts) != len(gallery_features):
        raise ValueError(
            f"gallery_concepts: {len(gallery_concepts)} for {len(gallery_features)} pictures; give one each"
        )
    if not 1 <= k <= len(gallery_features):
        raise ValueError(f"k: {k} nearest of {len(gallery_features)} pictures; allowed 1 to {len(gallery_features)}")
    directions = torch.nn.functional.normalize(gallery_features, dim=1)
    nearest = (torch.nn.functional.normalize(features, dim=1) @ directions.T).topk(k, dim=1).indices
    return [[gallery_concepts[i] for i in row] for row in nearest.tolist()]


def concept_accuracy(
    features: Features,
    concepts: Sequence[str],
    styles: Sequence[str],
    gallery_features: Gallery,
    gallery_concepts: Sequence[str],
) -> ConceptAccuracy:
    """How often the concept asked for is that of the nearest gallery picture, or among those of the five nearest.

    top-5 asks for the concept among the five nearest *pictures*. That is stricter than among the five nearest
    distinct concepts, because several of the five pictures may share a wrong concept.

    A picture must not be in its own gallery: it would be its own nearest neighbour.

    Args:
        features: pictures to judge (n, d).
        concepts: what each was asked to show.
        styles: the style each was asked for.
        gallery_features: training pictures (m, d), m at least 5.
        gallery_concepts: their concepts.

    Raises:
        ValueError: no pictures, or lists of unequal length.
    """
    if not len(features) == len(concepts) == len(styles) or not len(features):
        raise ValueError(
            f"features, concepts, styles: {len(features)}, {len(concepts)}, {len(styles)} of them; "
            "give the same number of each, at least one"
        )
    found = nearest_concepts(features, gallery_features, gallery_concepts, TOP)
    ranks = [row.index(asked) if asked in row else TOP for asked, row in zip(concepts, found, strict=True)]
    by_style = {
        style: _hits([rank for rank, of in zip(ranks, styles, strict=True) if of == style])
        for style in sorted(set(styles))
    }
    return ConceptAccuracy(_hits(ranks), by_style)


def _hits(ranks: list[int]) -> Hits:
    n = len(ranks)
    return Hits(n, sum(rank == 0 for rank in ranks) / n, sum(rank < TOP for rank in ranks) / n)


def _binomial_error(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / n)
