"""What is measured of a model: its first stage, and drawn training concepts, unseen words for them, held-out cells.

The pictures' folder is one that `scripts/prepare_emoji.py` writes, or has the same parts: `train`, `heldout_cells`,
`heldout_concepts`, with the columns concept and style in their metadata. What draws and what compares two pictures
comes from the caller, so that this room sees neither the pipeline nor the autoencoder's own code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ldm.codec import Codec, IdentityCodec
from ldm.core.shapes import Image
from ldm.data.records import read_records
from ldm.evaluation.features import extract
from ldm.evaluation.gallery import Labelled, labelled_features
from ldm.evaluation.reconstruction import Autoencoder, Measure, heldout_views, reconstruction_rows
from ldm.evaluation.report import (
    Draw,
    accuracy_rows,
    drawn,
    heldout_cell_rows,
    judge,
    one_per_concept,
    some,
    trained_concept_rows,
)
from ldm.evaluation.synonyms import keywords_of_one, unseen
from ldm.evaluation.table import Row
from ldm.nets.guess import SEPARATOR

TRAIN, CELLS, CONCEPTS = "train", "heldout_cells", "heldout_concepts"


class NothingToAsk(ValueError):
    """The data has no words for a table."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """On what to measure.

    Attributes:
        data: folder that holds the parts.
        size: side of the pictures, pixels.
        samples: pictures to draw for each table, or as many as the data has concepts or cells.
        seed: of the choice of concepts, of backgrounds and of the drawn pictures.

    Raises:
        ValueError: a part is missing, or `samples` is below 2.
    """

    data: Path
    size: int
    samples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples: {self.samples} pictures; a distance of two sets needs 2 or more")
        for part in (TRAIN, CELLS, CONCEPTS):
            if not (self.data / part).is_dir():
                raise ValueError(
                    f"{self.data / part}: no such folder; --data has the parts {TRAIN}, {CELLS} and "
                    f"{CONCEPTS}, as `make data` makes them (docs/data.md)"
                )


def measure_autoencoder(plan: Plan, codec: Codec, measures: Mapping[str, Measure], device: torch.device) -> list[Row]:
    """Reconstruction of held-out cells, then of held-out concepts, on white and on a colour.

    The KL term is that of the autoencoder's own latents, before stage 2 rescales them.

    Args:
        plan: on what.
        codec: holds the autoencoder.
        measures: functions of (picture, reconstruction) by the name of their figure, called on the CPU.
        device: where to encode and decode.

    Raises:
        ValueError: the model has no autoencoder.
    """
    if isinstance(codec, IdentityCodec):
        raise ValueError("--what autoencoder: this model works on pixels and has none; use --what concepts or heldout")
    autoencoder = cast(Autoencoder, codec.to(device).autoencoder)
    rows = []
    for part, name in ((CELLS, "held-out cells"), (CONCEPTS, "held-out concepts")):
        views = heldout_views(plan.data / part, plan.size, plan.seed)
        rows += reconstruction_rows(name, autoencoder, views, measures, device)
    return rows


def measure_concepts(plan: Plan, net: nn.Module, draw: Draw) -> tuple[list[Row], Image]:
    """Concept accuracy of pictures drawn for training captions, one per concept; the pictures besides.

    Args:
        plan: on what.
        net: from `load_feature_net`.
        draw: the model.
    """
    gallery = _part(plan, net, TRAIN)
    asked = one_per_concept(gallery, plan.samples, plan.seed)
    images = drawn(draw, asked, plan.seed)
    return trained_concept_rows(net, images, asked, gallery), images


def measure_heldout(plan: Plan, net: nn.Module, draw: Draw) -> tuple[list[Row], Image]:
    """The same for held-out (concept, style) cells, next to what their real pictures score; the pictures besides."""
    gallery, cells = _part(plan, net, TRAIN), some(_part(plan, net, CELLS), plan.samples, plan.seed)
    images = drawn(draw, cells, plan.seed)
    return heldout_cell_rows(net, images, cells, gallery), images


def measure_synonyms(plan: Plan, net: nn.Module, draw: Draw) -> tuple[list[Row], Image]:
    """Concept accuracy of pictures drawn for words that no training caption has; the pictures besides.

    Raises:
        NothingToAsk: the data has no concept that such words are known for.
    """
    words = {concept: found[0] for concept, found in unseen(_rows(plan)).items()}
    if not words:
        raise NothingToAsk(f"{plan.data / TRAIN}: no concept that `ldm.evaluation.synonyms` has unseen words for")
    return _called(plan, net, draw, words, "unseen words, drawn")


def measure_keywords(plan: Plan, net: nn.Module, draw: Draw) -> tuple[list[Row], Image]:
    """The same for keywords, which training captions have beside others: one for each concept that has one alone.

    Raises:
        NothingToAsk: the data has no such keywords.
    """
    words = {concept: found[0] for concept, found in keywords_of_one(_rows(plan)).items()}
    if not words:
        raise NothingToAsk(f"{plan.data / TRAIN}: no concept has a keyword that no other has")
    return _called(plan, net, draw, words, "keywords, drawn")


def _called(plan: Plan, net: nn.Module, draw: Draw, words: Mapping[str, str], label: str) -> tuple[list[Row], Image]:
    """What is drawn for captions of training with `words` in the place of the names of concepts."""
    gallery = _part(plan, net, TRAIN)
    named = [row for row, concept in enumerate(gallery.concepts) if concept in words]
    shown = one_per_concept(gallery.select(named), plan.samples, plan.seed)
    captions = [
        SEPARATOR.join([words[concept], *caption.split(SEPARATOR)[1:]])
        for concept, caption in zip(shown.concepts, shown.captions, strict=True)
    ]
    asked = replace(shown, captions=captions)
    images = drawn(draw, asked, plan.seed)
    return accuracy_rows(label, judge(extract(net, images), asked, gallery)), images


def _rows(plan: Plan) -> list[Mapping[str, Any]]:
    return [record.columns for record in read_records(plan.data / TRAIN).records]


def _part(plan: Plan, net: nn.Module, part: str) -> Labelled:
    return labelled_features(net, plan.data / part, plan.size)
