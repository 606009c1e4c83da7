"""Stable Diffusion's shapes at reduced width, with every structural switch as published, and random weights."""

from dataclasses import replace
from functools import cache

import torch
from torch import nn

from autoencoder.model import Autoencoder, AutoencoderSpec
from ldm.convert.parts import Parts
from ldm.convert.recipe import recipe, text_spec
from ldm.nets.clip import ClipEncoder, ClipSpec
from ldm.nets.unet import UNet, UNetSpec
from ldm.process.prediction import Kind

LEVELS = {"mult": (1, 2, 2), "attention_levels": (0, 1)}
UNETS = {
    1: UNetSpec(channels=32, heads=8, context_dim=128, **LEVELS),
    2: UNetSpec(channels=64, heads=None, head_channels=64, context_dim=128, linear_projection=True, **LEVELS),
}
TEXTS = {1: text_spec(1, 128, 2, heads=2, pad="eot"), 2: text_spec(2, 128, 3, heads=2, pad="zero")}
AUTOENCODER = AutoencoderSpec(channels=32, mult=(1, 2, 2))
MODELS = {  # generation, prediction, channels of condition
    "1": (1, "eps", 0),
    "1-inpainting": (1, "eps", 5),
    "2-base": (2, "eps", 0),
    "2-v": (2, "v", 0),
    "2-inpainting": (2, "eps", 5),
}


@torch.no_grad()
def randomised(net: nn.Module, gain: float = 1.0) -> nn.Module:
    """Weights everywhere nonzero, near the size of a trained network's."""
    for parameter in net.parameters():
        parameter.copy_(gain * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return net


@cache
def made(name: str, dtype: torch.dtype = torch.float32) -> Parts:
    """The parts of one of MODELS."""
    torch.manual_seed(len(name))
    generation, kind, extra = MODELS[name]
    return random_parts(replace(UNETS[generation], cond_channels=extra), AUTOENCODER, TEXTS[generation], kind, dtype)


def random_parts(
    net_spec: UNetSpec, stage1: AutoencoderSpec, text: ClipSpec, kind: Kind, dtype: torch.dtype = torch.float32
) -> Parts:
    """A model of these shapes."""
    nets = (UNet(net_spec), Autoencoder(stage1), ClipEncoder(text))
    net, codec, tower = ({n: t.to(dtype) for n, t in randomised(part).state_dict().items()} for part in nets)
    config = recipe(net_spec, text, kind, size=768 if kind == "v" else 512)
    return Parts(config=config, autoencoder=stage1, net=net, codec=codec, text=tower)


def same(a: Parts, b: Parts) -> bool:
    """Whether two models agree in every bit and in every setting."""
    ours, theirs = a.tensors(), b.tensors()
    equal = ours.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]) for name, tensor in ours.items()
    )
    return equal and (a.config, a.autoencoder) == (b.config, b.autoencoder)
