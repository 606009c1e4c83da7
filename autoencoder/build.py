"""From a configuration or a bundle to an autoencoder."""

from pathlib import Path

from autoencoder.config import AutoencoderConfig
from autoencoder.model import Autoencoder
from autoencoder.stats import LatentMoments
from ldm.core.bundle import Bundle, BundleError, load_bundle, save_bundle
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
    """Read a bundle file: the frozen autoencoder, the moments of its latents and its content hash."""
    bundle = load_bundle(path)
    model, moments = build_autoencoder(bundle, path)
    return model, moments, bundle.sha256


def save_autoencoder(path: str | Path, config: AutoencoderConfig, model: Autoencoder, moments: LatentMoments) -> str:
    """Write the autoencoder with its configuration and latent moments; returns the content hash."""
    return save_bundle(path, to_dict(config), model.state_dict(), moments=to_dict(moments))
