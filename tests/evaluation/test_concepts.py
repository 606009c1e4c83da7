"""Concept accuracy on features whose neighbours are known."""

import math

import pytest
import torch

from ldm.evaluation.concepts import Hits, concept_accuracy, nearest_concepts


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors of the plane at these angles."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


GALLERY = at(0, 10, 20, 30, 40, 50, 60)
CONCEPTS = ["cat", "dog", "dog", "sun", "sun", "sun", "moon"]


def test_nearest_first_and_length_does_not_matter():
    lengths = torch.tensor([3.0, 0.1, 1.0, 7.0, 1.0, 2.0, 1.0])[:, None]
    assert nearest_concepts(5 * at(1, 58), lengths * GALLERY, CONCEPTS, 3) == [
        ["cat", "dog", "dog"],
        ["moon", "sun", "sun"],
    ]


def test_top5_counts_pictures_not_distinct_concepts():
    """The five nearest to 58 degrees are moon, sun, sun, sun, dog: three distinct concepts, and cat is the fourth."""
    result = concept_accuracy(at(58, 58, 58), ["moon", "dog", "cat"], ["flat"] * 3, GALLERY, CONCEPTS)
    assert (result.overall.top1, result.overall.top5) == pytest.approx((1 / 3, 2 / 3))


def test_breakdown_by_style_adds_up():
    features = at(1, 1, 58, 58)
    result = concept_accuracy(features, ["cat", "sun", "cat", "moon"], ["b", "b", "a", "b"], GALLERY, CONCEPTS)
    assert result.overall == Hits(4, 0.5, 0.75)
    assert result.by_style == {"a": Hits(1, 0.0, 0.0), "b": Hits(3, 2 / 3, 1.0)}
    assert sum(hits.n * hits.top1 for hits in result.by_style.values()) == pytest.approx(4 * 0.5)


def test_standard_errors_are_binomial():
    hits = Hits(200, 0.6, 1.0)
    assert hits.top1_error == pytest.approx(math.sqrt(0.6 * 0.4 / 200))
    assert hits.top5_error == 0.0


def test_gallery_as_its_own_question_is_always_right():
    result = concept_accuracy(GALLERY, CONCEPTS, ["flat"] * 7, GALLERY, CONCEPTS)
    assert (result.overall.top1, result.overall.top5) == (1.0, 1.0)


@pytest.mark.parametrize(
    "features, concepts, gallery, message",
    [
        (at(0), ["cat"], at(0, 1, 2, 3), "4 pictures; allowed 1 to 4"),
        (at(0), [], GALLERY, "at least one"),
        (at(), [], GALLERY, "at least one"),
        (at(0), ["cat"], at(0, 1), "7 for 2 pictures"),
    ],
)
def test_lists_that_do_not_match_are_refused(features, concepts, gallery, message):
    names = CONCEPTS[:4] if len(gallery) == 4 else CONCEPTS
    with pytest.raises(ValueError, match=message):
        concept_accuracy(features, concepts, ["flat"] * len(concepts), gallery, names)
