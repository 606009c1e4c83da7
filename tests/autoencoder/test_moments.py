"""Latent moments: those of all latents at once, however they are batched."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autoencoder import fit as fitting
from autoencoder.config import AutoencoderConfig, AutoencoderDataSpec
from autoencoder.model import AutoencoderSpec
from autoencoder.module import AutoencoderTraining
from autoencoder.stats import MomentsMeter
from ldm.core.gaussian import Gaussian
from ldm.data import folder


def posteriors(images: int, offset: float = 0.0, dtype=torch.float64) -> Gaussian:
    generator = torch.Generator().manual_seed(images)
    mean, log_var = torch.randn(2, images, 3, 2, 4, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.1, 1.0, 20.0], dtype=torch.float64)[:, None, None]
    return Gaussian((scale * mean + offset).to(dtype), log_var.exp().to(dtype))


def measure(g: Gaussian, sizes: list[int]):
    meter = MomentsMeter(g.mean.shape[1])
    for mean, var in zip(g.mean.split(sizes), g.var.split(sizes), strict=True):
        meter.update(Gaussian(mean, var))
    return meter.moments()


@pytest.mark.parametrize("offset", [0.0, 1e6])  # a sum of squares would cancel at the second
def test_moments_are_those_of_all_latents_at_once(offset):
    g = posteriors(6, offset)
    found = measure(Gaussian(g.mean, torch.zeros_like(g.var)), [4, 2])
    std, mean = torch.std_mean(g.mean, dim=(0, 2, 3), correction=0)
    assert found.images == 6
    torch.testing.assert_close(torch.tensor(found.mean, dtype=torch.float64), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.tensor(found.std, dtype=torch.float64), std, rtol=1e-9, atol=0)


def test_the_variance_of_the_posterior_counts():
    g = posteriors(5)
    found = torch.tensor(measure(g, [5]).std, dtype=torch.float64)
    expected = g.mean.var(dim=(0, 2, 3), correction=0) + g.var.mean(dim=(0, 2, 3))  # law of total variance
    torch.testing.assert_close(found**2, expected, rtol=1e-12, atol=0)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_batching_does_not_matter(sizes):
    g = posteriors(sum(sizes), offset=100.0)
    found, whole = measure(g, sizes), measure(g, [sum(sizes)])
    assert found.images == whole.images
    assert found.mean == pytest.approx(whole.mean, rel=1e-13)
    assert found.std == pytest.approx(whole.std, rel=1e-10)


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="no picture"):
        MomentsMeter(3).moments()


@pytest.fixture
def config(tmp_path):
    (tmp_path / "data").mkdir()
    for i in range(5):
        Image.new("RGB", (16, 16), (50 * i, 0, 0)).save(tmp_path / "data" / f"{i}.png")
    (tmp_path / "data" / "2.png").write_text("no picture")
    model = AutoencoderSpec(latent_channels=2, channels=8, mult=(1,), blocks=1, patch=2, norm_groups=4)
    data = AutoencoderDataSpec(train=f"{tmp_path}/data", val=(f"{tmp_path}/data",), size=16)
    return AutoencoderConfig(model=model, data=data)


def test_every_picture_is_decoded_once_to_be_measured(config, monkeypatch):
    decoded, decode = [], folder.decode
    monkeypatch.setattr(folder, "decode", lambda *given: decoded.append(given[0].name) or decode(*given))
    module = AutoencoderTraining(config)
    found = fitting._measured(module, config)
    assert found.images == 4 and sorted(decoded) == [f"{i}.png" for i in range(5)]
    images = torch.stack([(torch.full((3, 16, 16), 0.0) - 1) for _ in range(4)])
    images[:, 0] += torch.tensor([0.0, 50, 150, 200])[:, None, None] / 127.5
    assert found == measure(module.model.encode(images), [4])


def test_latents_are_measured_where_training_was(config, tmp_path, monkeypatch):
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    monkeypatch.setattr(fitting, "make_trainer", lambda *_, **__: trainer)
    monkeypatch.setattr(fitting, "train", lambda _, module, *__: module.cpu())  # as Lightning does at its end
    where = []
    monkeypatch.setattr(fitting, "export", lambda module, _, path, *__: where.append(module.device) or path)
    fitting.fit(config, tmp_path)
    assert where == [torch.device("meta")]
