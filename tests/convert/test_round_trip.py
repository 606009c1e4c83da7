"""From a layout into ours and out again: every bit, in every layout."""

from dataclasses import replace

import pytest
import small
import torch

from autoencoder.build import latents_hash
from ldm.convert.command import WRITERS
from ldm.convert.diffusers import write_diffusers
from ldm.convert.native import write_native
from ldm.convert.opening import open_model, read_parts
from ldm.convert.weights import read_weights
from ldm.core.bundle import load_bundle, save_bundle
from ldm.core.config_io import to_dict
from ldm.model_folder import AUTOENCODER, LDM
from ldm.samplers.tuned import TUNED

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


def test_tables_of_another_model_do_not_stay_beside_a_converted_one(tmp_path):
    (tmp_path / TUNED).write_text("{}")
    write_native(small.made("1"), tmp_path)
    assert not (tmp_path / TUNED).exists()


@torch.no_grad()
def test_measured_moments_are_folded_into_one_factor(tmp_path):
    """Pictures, latents and their variances stay; what other programs multiply latents with becomes 0.18215."""
    parts = small.made("1")
    write_native(parts, tmp_path / "native")
    bundle = load_bundle(tmp_path / "native" / AUTOENCODER)
    moments = {"mean": [0.5, -2.0, 1.0, 0.1], "std": [4.0, 0.5, 3.0, 1.5], "images": 9}
    save_bundle(tmp_path / "native" / AUTOENCODER, bundle.config, bundle.weights, moments=moments)
    config = replace(parts.config, codec=replace(parts.config.codec, scale=None))
    weights = load_bundle(tmp_path / "native" / LDM).weights
    latents = latents_hash(bundle.weights, moments)
    save_bundle(tmp_path / "native" / LDM, to_dict(config), weights, autoencoder=latents)
    native = open_model(tmp_path / "native").codec
    write_diffusers(read_parts(tmp_path / "native"), tmp_path / "folder")
    folded = open_model(tmp_path / "folder").codec
    assert folded.stats.std.item() == pytest.approx(1 / 0.18215)
    image, z = torch.rand(1, 3, 16, 16) * 2 - 1, torch.randn(1, 4, 4, 4)
    ours, theirs = native.posterior(image), folded.posterior(image)
    for mine, other in ((ours.mean, theirs.mean), (ours.var, theirs.var), (native.decode(z), folded.decode(z))):
        assert (mine - other).abs().max() <= 1e-4 * other.std()
