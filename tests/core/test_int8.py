"""Weights in one byte: how far they move, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.int8 import STEP, pack, unpack


@given(rows=st.integers(1, 5), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_no_weight_moves_by_more_than_half_a_step(rows, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, *shape, generator=generator) * torch.rand(rows, *[1] * len(shape), generator=generator)
    packed = pack({"w": weight})
    assert packed["w"].dtype == torch.int8 and packed["w"].shape == weight.shape
    moved = (unpack(packed)["w"] - weight).flatten(1).abs().amax(1)
    assert (moved <= packed["w" + STEP] * 0.5001).all()
    assert (packed["w" + STEP] * 127 <= weight.flatten(1).abs().amax(1) * 1.0001).all()


def test_vectors_whole_numbers_and_zeros_survive():
    weights = {"bias": torch.tensor([1.0, -2.0]), "ids": torch.arange(3), "zero": torch.zeros(2, 3)}
    found = unpack(pack(weights))
    assert torch.equal(found["bias"].float(), weights["bias"]) and torch.equal(found["ids"], weights["ids"])
    assert torch.equal(found["zero"], weights["zero"])


def test_packing_again_changes_nothing():
    once = unpack(pack({"w": torch.randn(4, 7)}))
    torch.testing.assert_close(unpack(pack(once))["w"], once["w"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "weights",
    [
        {"w" + STEP: torch.ones(2)},
        {"w": torch.zeros(2, 3), "w" + STEP: torch.ones(2)},
        {"w": torch.zeros(2, 3, dtype=torch.int8), "w" + STEP: torch.ones(3)},
    ],
)
def test_what_does_not_belong_together_is_named(weights):
    with pytest.raises(ValueError, match="^w"):
        unpack(weights)
