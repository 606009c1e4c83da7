"""What every text encoder promises, and the choice of one by its spec."""

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from ldm.core.config_io import from_dict, to_dict
from ldm.nets.text import ClipSpec, SentenceSpec, TextEncoder, TextSpec, build_text

ROOT = Path(__file__).parents[2]
SPECS = {
    "sentence": SentenceSpec(max_tokens=12),
    "clip": ClipSpec(width=64, layers=2, heads=4, max_tokens=12),
    "clip pooled": ClipSpec(width=64, layers=2, heads=4, max_tokens=12, pooled=True, attend="words"),
}


@pytest.fixture(scope="module", params=SPECS)
def encoder(request) -> TextEncoder:
    return build_text(SPECS[request.param], ROOT)


def test_it_keeps_the_protocol(encoder):
    assert isinstance(encoder, TextEncoder)


def test_shapes_are_as_promised(encoder):
    cond = encoder(["", "a red apple", "far too long " * 10])
    assert cond.tokens.shape == (3, encoder.max_tokens, encoder.width)
    assert cond.mask is None or cond.mask.shape == (3, encoder.max_tokens)
    assert (cond.pooled is None) == (encoder.pooled_width == 0)
    assert cond.pooled is None or cond.pooled.shape == (3, encoder.pooled_width)


def test_captions_are_tokens_then_states(encoder):
    ids, mask = encoder.tokenize(["a red apple"])
    assert torch.equal(encoder(["a red apple"]).tokens, encoder.encode(ids, mask).tokens)


def test_different_captions_differ_and_equal_ones_do_not(encoder):
    tokens = encoder(["a red apple", "a green apple", "a red apple"]).tokens
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-2)
    assert torch.allclose(tokens[0], tokens[2], atol=1e-5)


def test_it_compiles_without_a_break(encoder, without_shape_checks, monkeypatch):
    monkeypatch.setattr(f"{type(encoder).__module__}.Cond", lambda *fields: fields)  # its own checks cannot be traced
    ids, mask = encoder.tokenize(["a red apple", ""])
    compiled = torch.compile(encoder.encode, fullgraph=True, backend="eager")
    for ours, expected in zip(compiled(ids, mask), encoder.encode(ids, mask), strict=True):
        assert ours is expected is None or torch.allclose(ours, expected, atol=1e-5)


def test_everything_follows_the_weights_to_another_device(encoder):
    with FakeTensorMode() as mode:
        tensors = chain(encoder.named_parameters(), encoder.named_buffers())
        moved = {name: mode.from_tensor(tensor).to("cuda") for name, tensor in tensors}
        cond = torch.func.functional_call(encoder, moved, (["a red apple"],))
    assert {field.device.type for field in (cond.tokens, cond.mask, cond.pooled) if field is not None} == {"cuda"}


@dataclass(frozen=True, kw_only=True)
class Run:
    text: TextSpec = field(default_factory=SentenceSpec)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_spec_survives_the_configuration(spec):
    assert from_dict(Run, to_dict(Run(text=spec))).text == spec
