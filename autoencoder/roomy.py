"""An autoencoder that finds room: at once where the memory is enough, else in strips."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from autoencoder.model import Autoencoder
from autoencoder.strips import decode_in_strips, encode_in_strips
from ldm.core.gaussian import Gaussian
from ldm.core.memory import free_unused, lacks_memory
from ldm.core.shapes import Image, Latent

Result = TypeVar("Result")


class RoomyAutoencoder(nn.Module):
    """`Autoencoder` with the same results that goes on in strips when there is not enough memory.

    Its weights may be narrow. Where narrow arithmetic is not asked for by `torch.autocast`, they are widened to float32
    first and stay so: that is how a decoder is retried whose narrow values were not finite.

    Args:
        model: the autoencoder.
        strips: go in strips from the start.
    """

    def __init__(self, model: Autoencoder, *, strips: bool):
        super().__init__()
        self.model, self.strips = model, strips
        self.spec = model.spec

    def encode(self, x: Image) -> Gaussian:
        """As `Autoencoder.encode`."""
        return self._run(self.model.encode, encode_in_strips, x)

    def decode(self, z: Latent) -> Image:
        """As `Autoencoder.decode`."""
        return self._run(self.model.decode, decode_in_strips, z)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """As `Autoencoder.latent_shape`."""
        return self.model.latent_shape(height, width)

    def _run(
        self, whole: Callable[[Tensor], Result], in_strips: Callable[[Autoencoder, Tensor], Result], x: Tensor
    ) -> Result:
        if not torch.is_autocast_enabled(x.device.type):
            self.model.float()
        if not self.strips:
            try:
                return whole(x)
            except RuntimeError as error:
                if not lacks_memory(error):
                    raise
            warnings.warn("not enough memory for the whole picture at once; it goes on in strips", stacklevel=3)
            free_unused(x.device)
        return in_strips(self.model, x)
