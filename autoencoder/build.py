"""From a configuration or a bundle to an autoencoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from autoencoder.config import AutoencoderConfig
from autoencoder.model import Autoencoder
from autoencoder.stats import LatentMoments
from ldm.core.bundle import Bundle, BundleError, content_hash, load_bundle, save_bundle
from ldm.core.config_io import ConfigError, from_dict, to_dict


def build_autoencoder(bundle: Bundle, where: str | Path) -> tuple[Autoencoder, LatentMoments]:
    """The frozen autoencoder of a bundle and the moments of its latents.

    Args:
        bundle: from `load_bundle`.
        where: its file, for messages.

    Raises:
        BundleError: the bundle holds another kind of model, or its tensors do not fit its configuration.
    """
    try:
        config = from_dict(AutoencoderConfig, bundle.config)
        moments = from_dict(LatentMoments, bundle.meta.get("moments", {}), "moments")
    except ConfigError as error:
        raise BundleError(f"{where}: not an autoencoder of this version ({error})") from error
    model = Autoencoder(config.model)
    try:
        model.load_state_dict({name: w.float() for name, w in bundle.weights.items()})
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise BundleError(f"{where}: the tensors do not fit the configuration ({first})") from error
    return model.eval().requires_grad_(False), moments


def load_autoencoder(path: str | Path) -> tuple[Autoencoder, LatentMoments, str]:
    """Read a bundle file: the frozen autoencoder, the moments of its latents and the hash of its latents."""
    bundle = load_bundle(path)
    model, moments = build_autoencoder(bundle, path)
    return model, moments, latents_hash(bundle.weights, bundle.meta["moments"])


def latents_hash(weights: Mapping[str, Tensor], moments: Mapping[str, Any]) -> str:
    """What decides the latents that stage 2 sees, as one hash: the encoder's weights and the moments.

    Two autoencoders that agree in it share a stage 2; a decoder may be trained further, or exchanged. Weights count
    in half precision, in which models are stored.
    """
    encoder = {name: tensor.half() for name, tensor in weights.items() if name.startswith("encoder.")}
    return content_hash({name: list(moments[name]) for name in ("mean", "std")}, encoder)


def save_autoencoder(path: str | Path, config: AutoencoderConfig, model: Autoencoder, moments: LatentMoments) -> str:
    """Write the autoencoder with its configuration and latent moments; returns the hash of its latents."""
    weights, meta = model.state_dict(), to_dict(moments)
    save_bundle(path, to_dict(config), weights, moments=meta)
    return latents_hash(weights, meta)
