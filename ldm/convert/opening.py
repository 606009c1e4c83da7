"""One door for every layout: a model folder of this project, a Stable Diffusion file, a diffusers folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from autoencoder.build import latents_hash
from autoencoder.model import Autoencoder
from ldm.build import Model, build_denoiser, latents_name
from ldm.codec import LatentStats, ScaledCodec
from ldm.convert.compvis import read_compvis
from ldm.convert.diffusers import files_of, is_diffusers, read_diffusers
from ldm.convert.digest import files_sha256
from ldm.convert.native import moments_of, read_native
from ldm.convert.parts import Parts
from ldm.convert.recipe import Prediction
from ldm.convert.weights import read_weights
from ldm.core.blank import blank
from ldm.core.config_io import to_dict
from ldm.model_folder import LDM, load_model
from ldm.nets.clip import ClipEncoder, ClipSpec


def open_model(
    path: str | Path,
    *,
    prediction: Prediction | None = None,
    variant: str | None = None,
    allow_pickle: bool = False,
) -> Model:
    """A model in any layout, ready to draw.

    Args:
        path: a model folder, a `.safetensors` or `.ckpt` file, or a folder of diffusers.
        prediction: what the network predicts, where the file does not say.
        variant: which of several weights: ema or non_ema of a file, fp16, non_ema, ... of a diffusers folder.
        allow_pickle: read pickled files too; their tensors alone, nothing of them is run.

    Raises:
        BundleError: a file is missing, damaged, or of a kind that is not known here.
        ValueError: an option is needed, or does not fit.
    """
    path = Path(path)
    if is_native(path):
        _refuse_options(path, prediction, variant)
        return load_model(path)
    parts = read_parts(path, prediction=prediction, variant=variant, allow_pickle=allow_pickle)
    sources: Sequence[Path] = [path] if path.is_file() else files_of(path, variant)
    return assembled(parts, files_sha256(sources), path if path.is_dir() else None)


def read_parts(
    path: Path, *, prediction: Prediction | None = None, variant: str | None = None, allow_pickle: bool = False
) -> Parts:
    """The parts of a model of Stable Diffusion's kind, in any layout, in the precision of its files; see `open_model`.

    Raises:
        BundleError: a file is missing, damaged, or of a kind that is not known here.
        ValueError: an option is needed, or does not fit, or the model is not of that kind.
    """
    if is_native(path):
        _refuse_options(path, prediction, variant)
        return read_native(path)
    if path.is_dir():
        return read_diffusers(path, prediction=prediction, variant=variant, allow_pickle=allow_pickle)
    return read_compvis(read_weights(path, allow_pickle=allow_pickle), prediction=prediction, variant=variant)


def is_native(path: Path) -> bool:
    """Whether this is, or is meant to be, a model folder of this project: no file and no folder of diffusers."""
    if path.is_dir():
        return (path / LDM).is_file() or not is_diffusers(path)
    return not path.is_file() and not path.suffix


def assembled(parts: Parts, sha256: str, folder: Path | None) -> Model:
    """Networks in float32 with the weights of `parts`, each tensor read from its file as it is needed.

    Args:
        parts: of any precision.
        sha256: content hash of the files.
        folder: where they are, if they have a folder of their own.
    """
    config, moments = parts.config, moments_of(parts)
    assert isinstance(config.text, ClipSpec) and config.codec.scale is not None
    with torch.device("meta"), blank():
        denoise = build_denoiser(config)
        autoencoder = Autoencoder(parts.autoencoder)
        text = ClipEncoder(config.text)
    _fill(denoise.net, parts.net)
    _fill(autoencoder, parts.codec)
    _fill(text, parts.text)
    codec = ScaledCodec(autoencoder, LatentStats((0.0,), (1 / config.codec.scale,)))
    latents = latents_name(latents_hash(parts.codec, to_dict(moments)), config.codec)
    model = Model(config, denoise, config.schedule, codec, text, None, latents, sha256, folder)
    for part in (denoise, codec, text):
        part.eval().requires_grad_(False)
    return model


def _fill(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network without memory its weights in float32, kernels channels-last: one copy, or none if they are so."""
    ready = {
        name: tensor.to(torch.float32, memory_format=torch.channels_last if tensor.ndim == 4 else torch.preserve_format)
        for name, tensor in weights.items()
    }
    net.load_state_dict(ready, assign=True)


def _refuse_options(path: Path, prediction: Prediction | None, variant: str | None) -> None:
    for name, value in (("prediction", prediction), ("variant", variant)):
        if value is not None:
            raise ValueError(f"--{name}: {path} is a model folder of this project, which says itself what it is")
