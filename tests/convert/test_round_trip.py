"""From a layout into ours and out again: every bit, in every layout; and shapes of the published sizes."""

import pytest
import small
import torch

from ldm.convert.command import WRITERS
from ldm.convert.opening import read_parts
from ldm.convert.weights import read_weights

PLACES = {"compvis": "model.safetensors", "diffusers": "folder", "native": "model"}


@pytest.mark.parametrize(("name", "dtype"), [("2-v", torch.float32), *((n, torch.float16) for n in small.MODELS)])
@pytest.mark.parametrize("layout", WRITERS)
def test_out_and_in_again_is_the_same_model(tmp_path, layout, name, dtype):
    parts = small.made(name, dtype)
    path = tmp_path / PLACES[layout]
    WRITERS[layout](parts, path)
    again = read_parts(path)
    assert small.same(parts, again)
    second = tmp_path / f"again-{PLACES[layout]}"
    WRITERS[layout](again, second)
    for file in [path] if path.is_file() else path.rglob("*.safetensors"):
        other = second if path.is_file() else second / file.relative_to(path)
        first, then = read_weights(file).tensors, read_weights(other).tensors
        assert first.keys() == then.keys() and all(torch.equal(first[n], then[n]) for n in first)
