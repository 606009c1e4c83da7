"""Which pictures are held out: whole concepts, and whole (concept, style) cells of concepts that stay in train."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from ldm.core.rng import fold

SPLITS = ("train", "heldout_cells", "heldout_concepts")
CONCEPT_FRACTION = 0.05
CELL_FRACTION = 0.04

T = TypeVar("T")
Cell = tuple[str, str]  # (concept, style)


def assign(cells: Iterable[Cell], seed: int) -> dict[Cell, str]:
    """Split of every (concept, style) cell, the same whatever the order of `cells`.

    Concepts are ranked by a hash of seed and name, and the first 5 % are held out in every style. Then, in each
    style, the remaining cells are ranked by a hash of their own and the first 4 % are held out, except that a
    concept always keeps one style in train: a held-out cell shows a concept that training has seen elsewhere.

    Returns:
        cell -> "train", "heldout_cells" or "heldout_concepts".
    """
    concepts_of: dict[str, list[str]] = defaultdict(list)
    styles_of: dict[str, list[str]] = defaultdict(list)
    for concept, style in cells:
        concepts_of[style].append(concept)
        styles_of[concept].append(style)
    held_concepts = _first(styles_of, CONCEPT_FRACTION, lambda concept: fold(seed, "split", "concept", concept))
    held_cells: set[Cell] = set()
    for style, concepts in concepts_of.items():
        left = [(concept, style) for concept in concepts if concept not in held_concepts]
        held_cells |= _first(left, CELL_FRACTION, lambda cell: _rank(seed, cell))
    for concept, styles in styles_of.items():
        own = [(concept, style) for style in styles]
        if held_cells.issuperset(own):
            held_cells.remove(max(own, key=lambda cell: _rank(seed, cell)))
    splits = dict.fromkeys(((c, s) for c, styles in styles_of.items() for s in styles), "train")
    splits |= dict.fromkeys(held_cells, "heldout_cells")
    return splits | {(c, s): "heldout_concepts" for c in held_concepts for s in styles_of[c]}


def _first(items: Iterable[T], fraction: float, rank: Callable[[T], int]) -> set[T]:
    """The given fraction of the items, lowest rank first."""
    ranked = sorted(items, key=rank)
    return set(ranked[: round(fraction * len(ranked))])


def _rank(seed: int, cell: Cell) -> int:
    return fold(seed, "split", "cell", *cell)
