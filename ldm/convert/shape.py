"""The shapes of the networks in a CompVis file, read from the names and shapes of its tensors.

Every number is read from several tensors, so that one that is missing is reported by name later, and not by a wrong
shape here.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from autoencoder.model import AutoencoderSpec
from ldm.convert.recipe import HEAD, TOWERS, text_spec
from ldm.core.bundle import BundleError
from ldm.nets.clip import ClipSpec
from ldm.nets.unet import UNetSpec

Tensors = Mapping[str, Tensor]
Spec = TypeVar("Spec")
MOST_LAYERS = 100
HEADS, HEAD_CHANNELS = 8, 64  # of the U-Net, in generation 1 and 2: no tensor tells


def unet_spec(unet: Tensors, where: Path) -> UNetSpec:
    """Shape of the U-Net with tensors `input_blocks.0.0.weight` and so on.

    What no tensor tells follows the generation, which the projections tell: 8 heads where they are convolutions,
    heads of 64 channels where they are linear.

    Raises:
        BundleError: this is no U-Net of Stable Diffusion.
    """
    return _reading(lambda: _unet_spec(unet), "U-Net", where)


def _unet_spec(unet: Tensors) -> UNetSpec:
    steps = sorted(_numbers(unet, r"input_blocks\.(\d+)\.0\.op\."))
    blocks = steps[0] - 1 if steps else max(_numbers(unet, r"input_blocks\.(\d+)\."))
    channels = _size(unet, 0, "input_blocks.0.0.weight", "input_blocks.0.0.bias")
    levels = range(len(steps) + 1)
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in levels]
    widths = [_size(unet, 0, f"{block}.0.out_layers.3.weight", f"{block}.0.in_layers.2.weight") for block in firsts]
    projection = next(t for n, t in unet.items() if re.fullmatch(r"input_blocks\.\d+\.1\.proj_(in|out)\.weight", n))
    words = next(t for n, t in unet.items() if re.search(r"attn2\.to_[kv]\.weight$", n))
    latent = _size(unet, 0, "out.2.weight", "out.2.bias")
    read = _size(unet, 1, "input_blocks.0.0.weight") if "input_blocks.0.0.weight" in unet else latent
    linear = projection.ndim == 2
    return UNetSpec(
        in_channels=latent,
        out_channels=latent,
        cond_channels=read - latent,
        channels=channels,
        mult=tuple(width // channels for width in widths),
        blocks=blocks,
        attention_levels=tuple(i for i in levels if any(n.startswith(f"{firsts[i]}.1.") for n in unet)),
        depth=1 + max(_numbers(unet, r"transformer_blocks\.(\d+)\.")),
        heads=None if linear else HEADS,
        head_channels=HEAD_CHANNELS if linear else None,
        context_dim=words.shape[1],
        linear_projection=linear,
    )


def autoencoder_spec(codec: Tensors, where: Path) -> AutoencoderSpec:
    """Shape of the KL autoencoder with tensors `encoder.down.0.block.0.conv1.weight` and so on.

    Raises:
        BundleError: there is none, or another.
    """
    return _reading(lambda: _autoencoder_spec(codec), "autoencoder", where)


def _autoencoder_spec(codec: Tensors) -> AutoencoderSpec:
    levels = range(1 + max(_numbers(codec, r"encoder\.down\.(\d+)\.")))
    channels = _size(codec, 0, "encoder.conv_in.weight", "encoder.conv_in.bias")
    names = [f"encoder.down.{level}.block.0.conv2" for level in levels]
    widths = [_size(codec, 0, f"{name}.weight", f"{name}.bias") for name in names]
    return AutoencoderSpec(
        image_channels=_size(codec, 0, "decoder.conv_out.weight", "decoder.conv_out.bias"),
        latent_channels=_size(codec, 0, "post_quant_conv.weight", "post_quant_conv.bias"),
        channels=channels,
        mult=tuple(width // channels for width in widths),
        blocks=1 + max(_numbers(codec, r"encoder\.down\.0\.block\.(\d+)\.")),
        attention=any(".mid.attn_1." in name for name in codec),
    )


def tower_spec(tower: Tensors, generation: int, where: Path) -> ClipSpec:
    """Shape of the text tower of generation 1 (transformers' names) or 2 (open_clip's).

    Raises:
        BundleError: there is none.
    """
    return _reading(lambda: _tower_spec(tower, generation), "text encoder", where)


def _tower_spec(tower: Tensors, generation: int) -> ClipSpec:
    if generation == 1:
        width = _size(tower, 0, "final_layer_norm.weight", "final_layer_norm.bias")
        layers = 1 + max(_numbers(tower, r"encoder\.layers\.(\d+)\."))
        return text_spec(1, width, layers, heads=max(1, width // HEAD), pad="eot")
    width = _size(tower, 0, "ln_final.weight", "ln_final.bias")
    layers = 1 + max(_numbers(tower, r"transformer\.resblocks\.(\d+)\."))
    _, usual_layers, _, usual_width = TOWERS[2]
    if (layers, width) == (usual_layers - 1, usual_width):
        layers = usual_layers  # the last, which is not used, was left out of the file
    return text_spec(2, width, layers, heads=max(1, width // HEAD), pad="zero")


def _reading(read: Callable[[], Spec], what: str, where: Path) -> Spec:
    try:
        return read()
    except (StopIteration, IndexError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise BundleError(f"{where}: its {what} is missing or not that of Stable Diffusion 1 or 2") from error


def _numbers(tensors: Tensors, pattern: str) -> set[int]:
    """The numbers in names; one that no such network has is no number of a layer, but of a stray tensor."""
    found = {int(held[1]) for name in tensors if (held := re.search(pattern, name)) and len(held[1]) < 4}
    return {number for number in found if number < MOST_LAYERS}


def _size(tensors: Tensors, axis: int, *names: str) -> int:
    """Length of an axis of the first of `names` that is there."""
    return next(tensors[name] for name in names if name in tensors).shape[axis]
