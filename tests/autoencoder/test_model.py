"""Shapes, sizes and refusals of the KL autoencoder and its discriminator."""

import pytest
import torch

from autoencoder.build import latents_hash, load_autoencoder, save_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.discriminator import PatchDiscriminator
from autoencoder.model import Autoencoder, AutoencoderSpec
from autoencoder.stats import LatentMoments
from ldm.core.bundle import BundleError, save_bundle
from ldm.core.config_io import to_dict

SMALL = AutoencoderSpec(latent_channels=3, channels=8, decoder_channels=16, mult=(1, 2), blocks=1, patch=2)
QUANT, POST_QUANT = 8 * 8 + 8, 4 * 4 + 4  # the two 1x1 convolutions around the latents


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_defaults_are_the_stable_diffusion_f8_autoencoder():
    with torch.device("meta"):
        model = Autoencoder(AutoencoderSpec())
    assert parameters(model) == 83_653_863 and len(model.state_dict()) == 248
    assert parameters(model.encoder) == 34_163_592 + QUANT
    assert parameters(model.decoder) == 49_490_179 + POST_QUANT
    assert model.spec.factor == 8 and model.latent_shape(512, 768) == (4, 64, 96)
    with torch.device("meta"):
        posterior = model.encode(torch.empty(2, 3, 64, 96))
        assert posterior.mean.shape == posterior.var.shape == (2, 4, 8, 12)
        assert model.decode(posterior.mean).shape == (2, 3, 64, 96)


@pytest.mark.parametrize(
    ("patch", "mult", "latent_channels", "attention", "height", "width"),
    [(1, (1,), 1, False, 3, 2), (2, (1, 3), 5, True, 1, 3), (4, (2, 1, 3), 9, True, 2, 1), (4, (1,), 4, True, 1, 1)],
)
def test_latents_and_pictures_have_the_promised_shapes(patch, mult, latent_channels, attention, height, width):
    spec = AutoencoderSpec(
        latent_channels=latent_channels, channels=8, mult=mult, blocks=1, patch=patch, attention=attention
    )
    assert spec.factor == patch * 2 ** (len(mult) - 1)
    size = (height * spec.factor, width * spec.factor)
    with torch.device("meta"):
        model = Autoencoder(spec)
        x_hat, posterior = model(torch.empty(2, 3, *size), torch.empty(2, *model.latent_shape(*size)))
    assert posterior.mean.shape == (2, latent_channels, height, width)
    assert x_hat.shape == (2, 3, *size)


def test_the_round_trip_draws_mean_plus_std_times_noise():
    model = Autoencoder(SMALL).eval()
    x, noise = torch.rand(2, 3, 8, 8) * 2 - 1, torch.randn(2, 3, 2, 2)
    x_hat, posterior = model(x, noise)
    torch.testing.assert_close(x_hat, model.decode(posterior.mean + posterior.var.sqrt() * noise))


def test_extreme_log_variances_stay_finite():
    model = Autoencoder(SMALL)
    with torch.no_grad():
        model.encoder.quant.bias[3:5] = torch.tensor([-1e6, 1e6])
    var = model.encode(torch.zeros(1, 3, 8, 8)).var
    torch.testing.assert_close(var[0, :2].log().flatten(1).mean(1), torch.tensor([-30.0, 20.0]))


@pytest.mark.parametrize("size", [(8, 6), (7, 8)])
def test_a_size_that_the_factor_does_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=rf"^picture of {size[1]}x{size[0]}: .*divisible by 4$"):
        Autoencoder(SMALL).encode(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patch", 0),
        ("channels", -1),
        ("latent_channels", 0),
        ("blocks", 0),
        ("decoder_channels", 0),
        ("mult", ()),
        ("mult", (1, 0)),
    ],
)
def test_impossible_specifications_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "):
        AutoencoderSpec(**{name: value})


def test_the_discriminator_scores_patches_of_each_picture_alone():
    net = PatchDiscriminator(channels=8, layers=3)
    x = torch.randn(3, 3, 32, 48)
    scores = net(x)
    assert scores.shape == (3, 1, 4, 6)
    torch.testing.assert_close(net(x[1:2]), scores[1:2])


def test_a_bundle_gives_back_the_model_and_its_moments(tmp_path):
    model, config, path = Autoencoder(SMALL), AutoencoderConfig(model=SMALL), tmp_path / "a.safetensors"
    moments = LatentMoments(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), images=5)
    digest = save_autoencoder(path, config, model, moments)
    found, found_moments, found_digest = load_autoencoder(path)
    assert (found.spec, found_moments, found_digest) == (SMALL, moments, digest)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())
    assert not found.training and not any(p.requires_grad for p in found.parameters())


def test_the_hash_of_the_latents_ignores_the_decoder():
    weights, moments = Autoencoder(SMALL).state_dict(), {"mean": (0.0,), "std": (1.0,), "images": 5}

    def shifted(part):
        return latents_hash({name: w + name.startswith(part) for name, w in weights.items()}, moments)

    assert shifted("nothing") == shifted("decoder.") == latents_hash(weights, moments | {"images": 6})
    assert shifted("encoder.") != shifted("nothing") != latents_hash(weights, moments | {"std": (2.0,)})


def test_a_bundle_of_something_else_is_named(tmp_path):
    path, config = tmp_path / "a.safetensors", to_dict(AutoencoderConfig(model=SMALL))
    moments = {"mean": [0.0], "std": [1.0], "images": 1}
    for saved, meta in (({"net": {"kind": "unet"}}, {}), (config, {}), (config, {"moments": moments})):
        save_bundle(path, saved, {"a": torch.zeros(1)}, **meta)
        with pytest.raises(BundleError, match=rf"^{path}: [^\n]*$"):
            load_autoencoder(path)
