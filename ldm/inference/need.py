"""How much memory a request needs, told before it is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from autoencoder.model import Autoencoder, AutoencoderSpec
from autoencoder.strips import decode_in_strips
from ldm.build import Model
from ldm.core.memory import held_at_most, lacks_memory, resident
from ldm.core.packed import reducible
from ldm.core.upsample import Upsample, split
from ldm.core.winograd import transformed_bytes
from ldm.inference.pipeline import Request
from ldm.inference.placing import Placement
from ldm.nets.attention import use_attention
from ldm.nets.attention_backends import kernel
from ldm.nets.cond import Cond
from ldm.nets.unet import UNet

Net = TypeVar("Net", bound=nn.Module)
LARGE_WEIGHTS, LARGE_PICTURES = 500_000_000, 2**20  # bytes, pixels: from these on it is worth a second to tell the need
HEAP = 1.4  # what a CPU's heap and its kernels take for one byte of living tensors
LATE = 35_000_000  # bytes of libraries and tables that come with the first step


@dataclass(frozen=True)
class Need:
    """Bytes on the device that computes.

    Attributes:
        program: what the process holds without a model; 0 on an accelerator.
        weights: of every part that is there at the time of the peak; on a CPU as they were loaded.
        network: what one evaluation of the U-Net holds beside them.
        decoder: what decoding holds beside them.
    """

    program: int
    weights: int
    network: int
    decoder: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.program + self.weights + max(self.network, self.decoder)

    def __str__(self) -> str:
        parts = f"weights {_size(self.weights)}, a step {_size(self.network)}, decoding {_size(self.decoder)}"
        if self.program:
            parts = f"program {_size(self.program)}, {parts}"
        return f"needs about {_size(self.total)} of memory ({parts})"


def estimate(
    model: Model,
    how: Placement,
    *,
    batch: int,
    height: int,
    width: int,
    chunks: int = 1,
    weak: Model | None = None,
    upscaler: Model | None = None,
    tiles: int = 1,
    classifier: nn.Module | None = None,
) -> Need:
    """What drawing needs: weights are counted, activations are those of the same networks without memory (meta device).

    Args:
        model: what draws, as it was loaded, like all that is given with it.
        how: how it will be placed.
        batch: pictures computed together; guidance doubles them.
        height, width: pixels.
        chunks: how often the text encoder reads for each prompt.
        weak: a second model that is asked at every step.
        upscaler: a model that enlarges what was drawn.
        tiles: of its own size that it enlarges together.
        classifier: a network whose gradient steers; of it the weights alone are counted.
    """
    shape = model.codec.latent_shape(height, width)
    weights = {
        "network": _bytes(model.denoise, how.dtype),
        "codec": _bytes(model.codec, how.dtype),
        "text": _of_text(model),
    }
    others = [x for x in (weak, upscaler) if x is not None]
    further = sum(_as_loaded(other) for other in others) + (0 if classifier is None else _bytes(classifier))
    held = (max(weights.values()) if how.offload else sum(weights.values())) + further
    rows = batch if model.config.net.distilled is not None else 2 * batch
    asked = [(model, (rows, *shape), chunks)] + ([] if weak is None else [(weak, (rows, *shape), chunks)])
    decoder = _decoder(model, how, (batch, *shape))
    if upscaler is not None:
        large = upscaler.codec.latent_shape(upscaler.config.sample.size, upscaler.config.sample.size)
        asked.append((upscaler, (2 * tiles, *large), 1))
        decoder = max(decoder, _decoder(upscaler, how, (tiles, *large)))
    network = max(_network(each, how, size, words) for each, size, words in asked)
    if how.device.type != "cpu":
        return Need(0, held, network, decoder)
    loaded = _as_loaded(model) + further
    weight = max(loaded, held)  # they came in float32, and the heap keeps what narrowing them frees
    weight += _beside(model, how) if how.packs else 0
    return Need(LATE + max(0, resident() - loaded), weight, int(HEAP * network), int(HEAP * decoder))


def _as_loaded(model: Model) -> int:
    return _bytes(model.denoise) + _bytes(model.codec) + _of_text(model)


def _of_text(model: Model) -> int:
    return sum(_bytes(part) for part in (model.text, model.guess) if isinstance(part, nn.Module))


def drawn_together(model: Model, request: Request) -> dict[str, int]:
    """How many pictures of which size the network draws at once: batch, height and width."""
    side = model.config.sample.size
    height, width = request.height or side, request.width or side
    if request.start is not None:
        height, width = request.start.canvas.image(model.unit).shape[-2:]
    return {"batch": min(len(request.prompts), request.batch), "height": height, "width": width}


def worth_telling(model: Model, *, batch: int, height: int, width: int) -> bool:
    """Whether the need may matter: of a large model or large pictures. Finding it out takes about a second."""
    weights = _bytes(model.denoise) + _bytes(model.codec)
    return weights >= LARGE_WEIGHTS or batch * height * width >= LARGE_PICTURES


@contextmanager
def advised() -> Iterator[None]:
    """Turn the lack of memory into one line that says what helps.

    Raises:
        ValueError: the memory was not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise ValueError(
            "not enough memory: try --batch 1, a smaller --width and --height, --tile, --dtype bfloat16 or, "
            "on a GPU, --offload"
        ) from error


def _network(model: Model, how: Placement, shape: tuple[int, ...], chunks: int) -> int:
    spec, words = model.config.net, chunks * model.text.max_tokens
    with torch.device("meta"):
        net = _as_run(UNet(spec), how, packed=not how.compile)
        x, ones = torch.empty(shape[0], spec.in_channels, *shape[2:], dtype=how.dtype), torch.empty(shape[0])
        cond = Cond(
            torch.empty(shape[0], words, spec.context_dim, dtype=how.dtype),
            pooled=torch.empty(shape[0], spec.pooled_dim) if spec.pooled_dim else None,
            channels=torch.empty(shape[0], spec.cond_channels, *shape[2:]) if spec.cond_channels else None,
            scale=None if spec.distilled is None else ones,
            stride=None if spec.distilled is None else ones,
        )
        use_attention(net, kernel("plain" if how.attention == "plain" else "sdpa"))
        return held_at_most(lambda: net(x, ones, cond))


def _as_run(net: Net, how: Placement, packed: bool = True) -> Net:
    """A network without weights, as `placed` would have it."""
    net = net.to(how.dtype).to(memory_format=torch.channels_last)
    if packed and how.packs:
        split(net)
    return net


def _decoder(model: Model, how: Placement, shape: tuple[int, ...]) -> int:
    spec = getattr(getattr(model.codec, "autoencoder", None), "spec", None)
    if not isinstance(spec, AutoencoderSpec):
        return 0
    with torch.device("meta"):
        twin = _as_run(Autoencoder(spec), how)
        z = torch.empty(shape, dtype=how.dtype)
        return held_at_most(lambda: decode_in_strips(twin, z) if how.tile else twin.decode(z))


def _beside(model: Model, how: Placement) -> int:
    """What packed layers hold at most beside their weights: sums of them, and for many pixels in float32 transforms."""
    parts = (model.codec,) if how.compile else (model.denoise, model.codec)
    layers = [layer for part in parts for layer in part.modules()]
    doubling = [layer.conv for layer in layers if isinstance(layer, Upsample)]
    found = sum(16 * conv.in_channels * conv.out_channels * how.dtype.itemsize for conv in doubling)
    if how.dtype != torch.float32:
        return found
    usual = [x for x in layers if isinstance(x, nn.Conv2d) and reducible(x) and x not in doubling]
    return found + sum(transformed_bytes(layer.in_channels, layer.out_channels) for layer in usual)


def _bytes(part: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of the weights of `part`, as if they were in `dtype`."""
    return sum(p.numel() * (p.itemsize if dtype is None else dtype.itemsize) for p in part.parameters())


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
