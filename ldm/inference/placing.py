"""A model made ready to draw: where its parts are, how narrow, how they are computed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autoencoder.model import Autoencoder
from autoencoder.roomy import RoomyAutoencoder
from ldm.build import Model
from ldm.codec import ScaledCodec
from ldm.core.compiled import missing_compiler
from ldm.core.gaussian import Gaussian
from ldm.core.memory import free_unused
from ldm.core.packed import can_pack, pack, packing_pays
from ldm.core.processor import processor
from ldm.core.shapes import Image, Latent
from ldm.nets.attention import use_attention
from ldm.nets.attention_backends import Backend, kernel
from ldm.nets.cond import Cond


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a model is to be run.

    Attributes:
        device: where.
        dtype: precision of the U-Net's and the autoencoder's weights, as `txt2img` will compute.
        attention: which kernel.
        tile: decode and encode in strips from the start; else only when memory is short.
        offload: keep on the device only the part that is at work: the text encoder, the U-Net or the autoencoder.
        compile: compile the U-Net; the first step then takes minutes.
        packed: lay the weights out for the CPU where it has kernels for that; None: where it was measured to be faster,
            see `ldm.core.packed.packing_pays`.

    Raises:
        ValueError: this machine cannot do it.
    """

    device: torch.device
    dtype: torch.dtype
    attention: Backend = "auto"
    tile: bool = False
    offload: bool = False
    compile: bool = False
    packed: bool | None = None

    def __post_init__(self) -> None:
        if self.offload and self.device.type == "cpu":
            raise ValueError("--offload: the model is computed where it is kept, on the CPU; leave it out")
        if self.compile and (missing := missing_compiler(self.device)):
            raise ValueError(f"--compile: {missing} is not on this machine; install it or leave the option out")
        kernel(self.attention, self.device, self.dtype)  # says so if it cannot run

    @property
    def packs(self) -> bool:
        """Whether layers are packed; a compiled U-Net never is."""
        wanted = packing_pays(processor()) if self.packed is None else self.packed
        return wanted and can_pack(self.device, self.dtype)


def placed(model: Model, how: Placement) -> Model:
    """`model` ready to draw as `how` says; the given one's networks are changed and serve only to draw from now on."""
    use_attention(model.denoise, kernel(how.attention, how.device, how.dtype))
    model.denoise.net.to(how.dtype)
    codec = model.codec
    if isinstance(codec, ScaledCodec) and isinstance(codec.autoencoder, Autoencoder):
        inner = codec.autoencoder.to(how.dtype)
        codec = ScaledCodec(RoomyAutoencoder(inner, strips=how.tile), codec.stats)
    model = replace(model, codec=codec)
    model = offloaded(model, how.device) if how.offload else model.to(how.device)
    if how.compile:
        model.denoise.net.compile()
    elif how.packs:
        pack(model.denoise)
    if how.packs:
        pack(model.codec)
    return model


def offloaded(model: Model, device: torch.device) -> Model:
    """`model` with the U-Net on `device`, which makes room while another part visits."""
    model.denoise.to(device)

    @contextmanager
    def visit(part: nn.Module) -> Iterator[None]:
        model.denoise.to("cpu")
        free_unused(device)
        part.to(device)
        try:
            yield
        finally:
            part.to("cpu")
            free_unused(device)
            model.denoise.to(device)

    if model.guess is not None:
        model.guess.to(device)  # small, and read with every text
    codec = model.codec
    if isinstance(codec, ScaledCodec):
        codec = ScaledCodec(VisitingAutoencoder(codec.autoencoder, visit), codec.stats.to(device))
    return replace(model, text=VisitingText(model.text, visit), codec=codec)


class VisitingText:
    """A text encoder that is on the device only while it reads.

    Args:
        text: the encoder.
        visit: context in which a module is on the device.
    """

    def __init__(self, text: Any, visit: Any):
        self.text, self.visit = text, visit
        self.width, self.pooled_width = text.width, text.pooled_width
        self.max_tokens, self.trainable = text.max_tokens, text.trainable

    def __call__(self, captions: Sequence[str]) -> Cond:
        """Conditions of a list of captions, on the device."""
        with self.visit(self.text):
            return self.text(captions)

    def encode(self, ids: Tensor, mask: Tensor) -> Cond:
        """Conditions of tokenised captions, on the device."""
        with self.visit(self.text):
            return self.text.encode(ids, mask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.text, name)


class VisitingAutoencoder(nn.Module):
    """An autoencoder that is on the device only while it encodes or decodes.

    Args:
        autoencoder: stage 1.
        visit: context in which a module is on the device.
    """

    def __init__(self, autoencoder: Any, visit: Any):
        super().__init__()
        self.autoencoder, self.visit, self.spec = autoencoder, visit, autoencoder.spec

    def encode(self, x: Image) -> Gaussian:
        """As the autoencoder's."""
        with self.visit(self.autoencoder):
            return self.autoencoder.encode(x)

    def decode(self, z: Latent) -> Image:
        """As the autoencoder's."""
        with self.visit(self.autoencoder):
            return self.autoencoder.decode(z)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """As the autoencoder's."""
        return self.autoencoder.latent_shape(height, width)
