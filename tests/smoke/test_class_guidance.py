"""A trained classifier steers what a model draws: from its file to the picture, and what is refused."""

import json

import pytest
import stages
import torch
from PIL import Image
from test_train_classifier import settings

from ldm.core.bundle import BundleError, load_bundle, save_bundle
from ldm.core.config_io import load
from ldm.denoiser import Denoised
from ldm.inference.classified import load_guidance
from ldm.inference.pipeline import Request, txt2img
from ldm.model_folder import load_model
from ldm.training.classifier import ClassifierConfig, fit


@pytest.fixture(scope="module")
def classifier(shapes, model_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("classifier")
    changes = {"optim.steps": 60, "validate_every": 60, "save_every": 60, "precision": "32-true", "optim.ema": 0.9}
    overrides = settings(shapes, model_folder, out / "cache", **changes)
    return fit(load(stages.ROOT / "configs/classifier/style.yaml", ClassifierConfig, overrides), out)


def draw(model, towards=None, **changes):
    request = Request(prompts=("", ""), seeds=(1, 2), steps=4, towards=towards, **changes)
    return txt2img(model, request, dtype=torch.float32)


def test_a_picture_is_steered_towards_its_class_alone_and_in_any_batch(classifier, model_folder):
    model = load_model(model_folder)
    plain = draw(model)
    red, blue = (load_guidance(classifier, model, f"a {colour} circle", 5.0) for colour in ("red", "blue"))
    towards_red, towards_blue = draw(model, red), draw(model, blue)
    assert not torch.equal(towards_red, plain) and not torch.equal(towards_red, towards_blue)
    assert torch.equal(draw(model, load_guidance(classifier, model, "a red circle", 0.0)), plain)
    assert (draw(model, red, batch=1) - towards_red).abs().max() <= 1 / 255


def test_guidance_moves_the_estimate_to_where_its_class_is_likelier(classifier, model_folder):
    towards = load_guidance(classifier, load_model(model_folder), "a red circle", 0.1)
    x_t, level = torch.randn(2, 4, 8, 8), torch.zeros(2)
    guided = towards.around(lambda x_t, logsnr: Denoised(x_t), 2, torch.device("cpu"))
    index = towards.classifier.classes.index("a red circle")
    with torch.no_grad():
        before, after = (
            towards.classifier.net(x, level).log_softmax(1)[:, index] for x in (x_t, guided(x_t, level).x0)
        )
    assert (after > before).all()
    noisier = torch.full((2,), -5.0)
    assert torch.equal(guided(x_t, noisier).x0, x_t)  # where its gradient is error


def test_what_cannot_be_used_is_refused(classifier, model_folder, tmp_path):
    model = load_model(model_folder)
    with pytest.raises(ValueError, match="label: 'a pink circle' is unknown; the classifier has a black circle, "):
        load_guidance(classifier, model, "a pink circle", 1.0)
    with pytest.raises(ValueError, match="classifier scale: -1"):
        load_guidance(classifier, model, "a red circle", -1.0)
    bundle = load_bundle(classifier)
    other = tmp_path / "other.safetensors"
    save_bundle(other, bundle.config, bundle.weights, **(bundle.meta | {"autoencoder": "0" * 64}))
    with pytest.raises(BundleError, match="it reads the latents of another autoencoder"):
        load_guidance(other, model, "a red circle", 1.0)


def test_the_command_draws_and_writes_what_it_steered_to(classifier, model_folder, tmp_path):
    options = ["--classifier", classifier, "--label", "a red circle", "--classifier-scale", "2", "--steps", "2"]
    options += ["--prompt", "a red apple"]
    printed = stages.finish(stages.start("txt2img", "--model", model_folder, "--out", tmp_path, *options))
    recipe = json.loads(Image.open(printed.strip()).info["ldm"])
    assert (recipe["label"], recipe["classifier_scale"]) == ("a red circle", 2.0)
