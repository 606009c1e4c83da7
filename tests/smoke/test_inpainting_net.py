"""Tasks with a picture are the same in any batch; a network made for inpainting reads what is kept beside its input."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldm.build import build_denoiser
from ldm.config import RunConfig
from ldm.core.config_io import load
from ldm.core.images import to_float
from ldm.inference.blend import Blend
from ldm.inference.canvas import Canvas
from ldm.inference.pipeline import Request, txt2img
from ldm.inference.start import Start
from ldm.model_folder import load_model, save_model

ROOT = Path(__file__).parents[2]
LEVEL = 2 / 255  # one 8-bit level of a picture in [-1, 1]
PIXELS = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(32, 32, dtype=torch.bool)
MASK[8:24, 16:] = True
REQUEST = Request(
    prompts=("a red circle", "a blue square", "(green)", "far too long " * 20), seeds=(3, 1, 4, 15), steps=3
)
TASKS = {
    "strength": replace(REQUEST, start=Start(canvas=Canvas(PIXELS), strength=0.6)),
    "mask": replace(REQUEST, start=Start(canvas=Canvas(PIXELS, MASK, 2), resample=2)),
    "vary": replace(REQUEST, start=Start(canvas=Canvas(PIXELS), vary=0.3)),
    "blend": replace(REQUEST, blend=Blend(share=(0.0, 0.3, 0.6, 1.0), prompts=("red",) * 4, seeds=(9, 8, 7, 6))),
}


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder)


@pytest.fixture(scope="module")
def inpainter(random_autoencoder, tmp_path_factory):
    config = load(ROOT / "configs/smoke/ldm.yaml", RunConfig)
    config = replace(config, net=replace(config.net, cond_channels=config.net.in_channels + 1))
    torch.manual_seed(1)
    weights = {name: w + 0.05 * torch.randn(w.shape) for name, w in build_denoiser(config).net.state_dict().items()}
    folder = tmp_path_factory.mktemp("inpainter")
    save_model(folder, config, weights, random_autoencoder)
    return load_model(folder)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_does_not_depend_on_its_batch(model, task):
    request = TASKS[task]
    together = txt2img(model, request, dtype=torch.float32)
    cut = txt2img(model, replace(request, batch=1), dtype=torch.float32)
    assert (cut - together).abs().max() <= LEVEL
    alone = txt2img(model, replace(request, only=2), dtype=torch.float32)
    assert torch.equal(alone[0], together[2])
    assert (together[0] - together[1]).abs().max() > 10 * LEVEL


def test_strength_0_is_the_reconstruction_of_the_autoencoder(model):
    start = Start(canvas=Canvas(PIXELS), strength=0.0)
    drawn = txt2img(model, replace(TASKS["strength"], start=start), dtype=torch.float32)
    with torch.inference_mode():
        mean = model.codec.posterior(to_float(PIXELS[None])).mean
        assert torch.allclose(drawn, model.codec.decode(mean).clamp(-1, 1).expand_as(drawn), atol=1e-5)


def test_the_network_reads_the_mask_and_what_is_kept(inpainter):
    read = []
    hook = inpainter.denoise.register_forward_pre_hook(lambda module, given: read.append(given[2].channels))
    drawn = txt2img(inpainter, TASKS["mask"], dtype=torch.float32)
    hook.remove()
    kept = to_float(PIXELS[None]) * ~MASK
    with torch.inference_mode():
        latent = inpainter.codec.posterior(kept).mean
    f = inpainter.codec.factor
    for channels in read:
        torch.testing.assert_close(channels[0, 1:], latent[0])
        assert torch.equal(channels[0, 0], MASK[::f, ::f].float())  # its edges lie between latents
    assert torch.equal(drawn[:, :, ~MASK], to_float(PIXELS[None])[:, :, ~MASK].expand(4, -1, -1))


def test_without_a_picture_it_draws_everything(inpainter):
    read = []
    hook = inpainter.denoise.register_forward_pre_hook(lambda module, given: read.append(given[2].channels))
    assert txt2img(inpainter, replace(REQUEST, height=16, width=48), dtype=torch.float32).shape == (4, 3, 16, 48)
    hook.remove()
    with torch.inference_mode():
        nothing = inpainter.codec.posterior(torch.zeros(1, 3, 16, 48)).mean
    assert (read[0][:, 0] == 1).all()
    torch.testing.assert_close(read[0][:1, 1:], nothing)
