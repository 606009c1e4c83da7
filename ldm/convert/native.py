"""This project's own model folder, as one layout among others."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from autoencoder.build import latents_hash
from autoencoder.config import AutoencoderConfig
from autoencoder.stats import LatentMoments
from ldm.config import RunConfig
from ldm.convert.parts import Parts
from ldm.convert.recipe import SCALE, generation_of
from ldm.core.bundle import Bundle, BundleError, load_bundle, save_bundle
from ldm.core.config_io import ConfigError, from_dict, to_dict
from ldm.core.int8 import unpack
from ldm.model_folder import AUTOENCODER, LDM
from ldm.nets.clip import ClipSpec
from ldm.nets.text import build_text
from ldm.nets.unet import UNetSpec
from ldm.process.prediction import VP
from ldm.samplers.tuned import forget_others

TEXT, GUESS = "text.", "guess."
NO_PLACE = "has no place in the layouts of Stable Diffusion"


def read_native(folder: Path) -> Parts:
    """The parts of a model folder of Stable Diffusion's kind.

    Latents that were normalised by measured moments are brought to one factor, 0.18215, by folding the moments into
    the two outermost 1x1 convolutions of the autoencoder: the same pictures, as other programs scale them.

    Raises:
        BundleError: a file is missing or damaged.
        ValueError: the model has what no other layout has a place for.
    """
    bundle = load_bundle(folder / LDM)
    try:
        config = from_dict(RunConfig, bundle.config)
        stage1 = load_bundle(folder / config.codec.path)
        spec = from_dict(AutoencoderConfig, stage1.config).model
        moments = from_dict(LatentMoments, stage1.meta.get("moments", {}), "moments")
    except ConfigError as error:
        raise BundleError(f"{folder}: not a model of this version ({error})") from error
    _check_place(config)
    codec: Mapping[str, Tensor] = stage1.weights
    if config.codec.scale is None:
        codec = folded(codec, moments, SCALE)
        config = replace(config, codec=replace(config.codec, scale=SCALE))
    others = (TEXT, GUESS)
    weights = unpack(bundle.weights)
    net = {name: tensor for name, tensor in weights.items() if not name.startswith(others)}
    return Parts(config=config, autoencoder=spec, net=net, codec=codec, text=_tower(config, bundle, weights))


def write_native(parts: Parts, folder: Path) -> str:
    """Write a model folder, in the precision of the parts; returns the content hash.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    moments = to_dict(moments_of(parts))
    save_bundle(folder / AUTOENCODER, to_dict(AutoencoderConfig(model=parts.autoencoder)), parts.codec, moments=moments)
    config = replace(parts.config, codec=replace(parts.config.codec, path=AUTOENCODER))
    weights = {**parts.net, **{TEXT + name: tensor for name, tensor in parts.text.items()}}
    sha256 = save_bundle(folder / LDM, to_dict(config), weights, autoencoder=latents_hash(parts.codec, moments))
    forget_others(folder, sha256)
    return sha256


def moments_of(parts: Parts) -> LatentMoments:
    """Moments that say the same as the scale of the latents."""
    scale, channels = parts.config.codec.scale or 1.0, parts.autoencoder.latent_channels
    return LatentMoments(mean=(0.0,) * channels, std=(1 / scale,) * channels, images=0)


def folded(codec: Mapping[str, Tensor], moments: LatentMoments, scale: float) -> dict[str, Tensor]:
    """Tensors of an autoencoder whose latents times `scale` are those of `codec` normalised by `moments`.

    With u = std * scale: the new mean is (mean - m) / u, the new log-variance 2 log u less, and the decoder reads
    u z + m. The four tensors are computed, and kept, in float32.
    """
    mean, unit = torch.tensor(moments.mean), torch.tensor(moments.std) * scale
    half = len(mean)
    rows = torch.cat([1 / unit, torch.ones(half)])
    weight, bias = codec["encoder.quant.weight"].float(), codec["encoder.quant.bias"].float()
    decode, decode_bias = codec["decoder.post_quant.weight"].float(), codec["decoder.post_quant.bias"].float()
    return {
        **codec,
        "encoder.quant.weight": weight * rows[:, None, None, None],
        "encoder.quant.bias": torch.cat([(bias[:half] - mean) / unit, bias[half:] - 2 * unit.log()]),
        "decoder.post_quant.weight": decode * unit[None, :, None, None],
        "decoder.post_quant.bias": decode_bias + decode[:, :, 0, 0] @ mean,
    }


def _tower(config: RunConfig, bundle: Bundle, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    held = {name.removeprefix(TEXT): tensor for name, tensor in weights.items() if name.startswith(TEXT)}
    if held:
        return held
    return dict(build_text(config.text).state_dict())  # type: ignore[attr-defined]  # published weights, by their tag


def _check_place(config: RunConfig) -> None:
    """Refuse what neither CompVis' nor diffusers' layout of Stable Diffusion can say."""
    if not isinstance(config.text, ClipSpec):
        raise ValueError(f"text: a '{config.text.kind}' encoder {NO_PLACE}")
    generation_of(config.text)
    usual = UNetSpec()
    for field in ("pooled_dim", "distilled", "scale_shift", "ff_mult"):
        if getattr(config.net, field) != getattr(usual, field):
            raise ValueError(
                f"net.{field}: {getattr(config.net, field)} has no place in the layouts of Stable Diffusion"
            )
    if config.guess is not None:
        raise ValueError(f"guess: a guess of the latent {NO_PLACE}")
    if config.prediction.learned_variance or config.prediction.scaling != VP():
        raise ValueError("prediction: learned_variance and scaling have no place in the layouts of Stable Diffusion")
    if config.codec.path == "":
        raise ValueError(f"codec: diffusion on pixels {NO_PLACE}")
