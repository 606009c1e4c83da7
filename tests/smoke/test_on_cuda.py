"""The whole path on device "cuda", without one: fake tensors have a device and a shape but no numbers.

An operation between tensors on two devices raises, so nothing can be left on the CPU by mistake. Backward passes are
not run: torch's autograd engine asks for a real CUDA device even for fake tensors. Gradients are put there instead.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autoencoder.config import AutoencoderConfig, LossSpec
from autoencoder.losses import adversarial_terms
from autoencoder.module import AutoencoderTraining
from ldm.build import Model, build_grid, build_sampler
from ldm.core.config_io import load
from ldm.core.ema import Ema
from ldm.core.optim import OptimSpec, adamw
from ldm.inference import pipeline
from ldm.inference.pipeline import Request
from ldm.model_folder import load_model
from ldm.nets.cond import Cond
from ldm.nets.guess import GuessSpec, LatentGuess
from ldm.samplers import SAMPLERS
from ldm.training.module import LatentDiffusion

ROOT = Path(__file__).parents[2]
NOT_IN_A_RUN = "ignore:You are trying to `self.log:UserWarning"
CUDA = torch.device("cuda", 0)


class Numbers(list[float]):
    """Enough of a tensor to be read, also under the mode."""

    tolist = list.copy


def to_cuda(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """`module.to("cuda")` in place, which torch refuses to do with fake tensors."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(mode.from_tensor(weight).to(CUDA), weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer).to(CUDA)
    return module


def model_to_cuda(model: Model, mode: FakeTensorMode) -> Model:
    for part in (model.denoise, model.codec, model.text, model.guess):
        if part is not None:
            to_cuda(part, mode)
    return model


@pytest.fixture
def model(model_folder) -> Model:
    return load_model(model_folder)


@pytest.fixture
def stage_1() -> AutoencoderTraining:
    config = load(ROOT / "configs/smoke/autoencoder.yaml", AutoencoderConfig)
    module = AutoencoderTraining(replace(config, loss=LossSpec(lpips=0.1, adversarial=0.5)))
    _ = module.lpips  # read from disk before the mode
    return module


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"adaptive"}))  # it reads its errors
def test_text_sampling_and_decoding(sampler, model, monkeypatch):
    request = Request(prompts=("a red circle", "two"), seeds=(0, 1), sampler=sampler, negative="blue")
    spec = pipeline.resolve(model, request)
    grid, bound = build_grid(spec, model.schedule), build_sampler(spec)
    object.__setattr__(grid, "logsnr", Numbers(grid.logsnr.tolist()))  # samplers read levels as numbers, not tensors
    monkeypatch.setattr(pipeline, "build_grid", lambda *_: grid)
    monkeypatch.setattr(pipeline, "build_sampler", lambda *_: bound)
    monkeypatch.setattr(pipeline, "_decode", lambda model, z, dtype: model.codec.decode(z))
    with FakeTensorMode() as mode:
        images = pipeline.txt2img(model_to_cuda(model, mode), request, dtype=torch.float32)
        assert images.device == CUDA and images.shape == (2, 3, 32, 32)


@pytest.mark.filterwarnings(NOT_IN_A_RUN)
def test_training_loss_of_stage_2(model):
    model.denoise.requires_grad_(True)
    with FakeTensorMode() as mode:
        module = LatentDiffusion(model_to_cuda(model, mode))
        with torch.device(CUDA):
            batch = {name: torch.ones(3, 4, 8, 8) for name in ("mean", "var")}
            batch |= {"tokens": torch.ones(3, 16, 384).half(), "mask": torch.ones(3, 16, dtype=torch.bool)}
            batch |= {"pooled": torch.ones(3, 384).half()}
        loss = module.training_step(batch, 0)
        assert loss.device == CUDA and loss.shape == () and loss.requires_grad
        stepped(module.learned, module)


def stepped(learned: nn.Module, module: LatentDiffusion | AutoencoderTraining) -> None:
    """The rest of a training step, with gradients that are put there."""
    for weight in learned.parameters():
        weight.grad = torch.zeros_like(weight)
    nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
    adamw(learned, OptimSpec()).step()
    module.ema.update()
    assert all(weight.device == CUDA for weight in learned.parameters())


@pytest.mark.filterwarnings(NOT_IN_A_RUN)
def test_training_losses_of_stage_1(stage_1):
    with FakeTensorMode() as mode:
        module = to_cuda(stage_1, mode)
        to_cuda(module.lpips, mode)
        x = torch.zeros(2, 3, 32, 32, device=CUDA)
        loss, x_hat = module._objective(x, adversarial=False)
        assert loss.device == CUDA and loss.shape == () and loss.requires_grad
        real, fake = module.discriminator(torch.cat([x, x_hat.detach()])).chunk(2)
        assert adversarial_terms(real, fake).device == CUDA
        module.ema = Ema(module.model, 0.9)  # of weights on the device
        stepped(module.model, module)


def test_the_guess_is_where_the_text_is():
    guess = LatentGuess(GuessSpec(pooled_dim=6, shape=(4, 8, 8), width=16))
    with FakeTensorMode() as mode:
        to_cuda(guess, mode)
        with torch.device(CUDA):
            cond = Cond(tokens=torch.ones(2, 3, 6), phrases=torch.ones(2, 2, 6))
        for size in (None, (8, 16)):
            channels = guess.into(cond, size).channels
            assert channels.device == CUDA and channels.shape == (2, 4, *(size or (8, 8)))


def test_a_tensor_left_behind_is_noticed(model):
    with FakeTensorMode() as mode:
        to_cuda(model.codec, mode)
        with pytest.raises(RuntimeError, match="device"):
            model.codec.decode(torch.zeros(1, *model.codec.latent_shape(32, 32)))
