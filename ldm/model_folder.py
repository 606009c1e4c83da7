"""A model folder: the weights of stage 2 and its autoencoder, read and written."""

import os
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from autoencoder.build import latents_hash
from ldm.build import Model, build_codec, build_denoiser, build_guess, latents_name
from ldm.config import RunConfig
from ldm.core.blank import blank
from ldm.core.bundle import BundleError, load_bundle, save_bundle
from ldm.core.config_io import ConfigError, from_dict, to_dict
from ldm.core.int8 import pack, unpack
from ldm.nets.text import ClipSpec, build_text
from ldm.nets.vocabulary import Vocabulary
from ldm.samplers.tuned import forget_others

LDM, AUTOENCODER, VOCABULARY = "ldm.safetensors", "autoencoder.safetensors", "vocabulary.safetensors"
CONVERT = "; `scripts/convert.py IN OUT --to native` makes a model folder of it"
OTHERS = ("text.", "guess.")  # begin the names of tensors that are not the U-Net's


def load_model(path: str | Path) -> Model:
    """A model folder (`ldm.safetensors` beside `autoencoder.safetensors`), ready to draw.

    `vocabulary.safetensors`, where it is there, says what the guess knows.

    Raises:
        BundleError: a file is missing, damaged, pickled, of another kind, or the two do not belong together.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such model folder; it holds {LDM} and {AUTOENCODER}{_where_else(folder)}")
    if (folder / "model_index.json").is_file():
        raise BundleError(f"{folder}: a folder of diffusers{CONVERT}")
    bundle = load_bundle(folder / LDM)
    try:
        config = from_dict(RunConfig, bundle.config)
    except ConfigError as error:
        raise BundleError(f"{folder / LDM}: not a model of this version ({error})") from error
    codec, latents = build_codec(config.codec, folder)
    if latents != bundle.meta.get("autoencoder"):
        raise BundleError(
            f"{folder / AUTOENCODER}: its latents are not those that {LDM} was trained on (hash of the encoder)"
        )
    spec = config.text
    if isinstance(spec, ClipSpec) and spec.trainable:
        spec = replace(spec, pretrained=None)  # the bundle has its weights; nothing is to be downloaded
    with blank():
        text = build_text(spec, text_root(config, folder))
        denoise, guess = build_denoiser(config), build_guess(config)
    name = latents_name(latents, config.codec)
    vocabulary = None if guess is None else load_vocabulary(folder, guess.spec.pooled_dim)
    model = Model(config, denoise, config.schedule, codec, text, guess, name, bundle.sha256, folder, vocabulary)
    stored = model.stored()
    try:
        _fill(stored, {_module_name(name): weight for name, weight in bundle.weights.items()})
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise BundleError(f"{folder / LDM}: the tensors do not fit the configuration ({first})") from error
    stored.eval().requires_grad_(False)
    return model


def load_vocabulary(folder: Path, width: int) -> Vocabulary | None:
    """What a guess that reads states of `width` knows, as a folder says; None where it does not.

    Raises:
        BundleError: the file is damaged, or of another text encoder.
    """
    path = folder / VOCABULARY
    if not path.is_file():
        return None
    bundle = load_bundle(path)
    try:
        names, styles, grounds = (tuple(bundle.config[key]) for key in ("names", "styles", "grounds"))
        states, shown, apart = (bundle.weights[key] for key in ("states", "shown", "apart"))
        keywords = tuple(map(tuple, bundle.config.get("keywords", ())))
        vocabulary = Vocabulary(names, states, styles, shown, apart, grounds, keywords)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: no vocabulary of this version ({error})") from error
    if states.shape[1:] != (width,):
        raise BundleError(f"{path}: states of {states.shape[1]} numbers, and the guess reads {width}")
    return vocabulary


def save_vocabulary(folder: Path, vocabulary: Vocabulary | None) -> None:
    """Write what the guess of a model folder knows, or remove what was written before."""
    if vocabulary is None:
        (folder / VOCABULARY).unlink(missing_ok=True)
        return
    save_bundle(folder / VOCABULARY, vocabulary.words, vocabulary.tables)


def save_model(folder: Path, config: RunConfig, weights: dict[str, Tensor], autoencoder: Path) -> str:
    """Write a model folder: the network as `config.storage` says, its autoencoder in float16; returns the content hash.

    Args:
        folder: made if missing.
        config: what the model was built from.
        weights: of `Model.stored()`.
        autoencoder: the bundle of stage 1 that the latents came from; not read for diffusion on pixels, which has none.

    Raises:
        BundleError: the autoencoder's file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not config.codec.path:
        return _save_net(folder, config, weights, build_codec(config.codec, folder)[1])
    bundle = load_bundle(autoencoder)
    half = {name: w.half() if w.is_floating_point() else w for name, w in bundle.weights.items()}
    save_bundle(folder / AUTOENCODER, bundle.config, half, **bundle.meta)
    sha256 = latents_hash(half, bundle.meta["moments"])
    stored = replace(config, codec=replace(config.codec, path=AUTOENCODER))
    return _save_net(folder, stored, weights, sha256)


def save_sibling(folder: Path, config: RunConfig, weights: dict[str, Tensor], model: Path) -> str:
    """Write a model folder that uses the autoencoder of another one, with the network in 8 bits a weight.

    Args:
        folder: made if missing; the two folders then move together.
        config: what the model was built from.
        weights: of `Model.stored()`.
        model: the folder whose autoencoder the latents came from, with one already saved there.

    Returns:
        The content hash.

    Raises:
        BundleError: the autoencoder's file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = Path(os.path.relpath(model / AUTOENCODER, folder)).as_posix() if config.codec.path else ""
    _, sha256 = build_codec(config.codec, model)
    stored = replace(config, codec=replace(config.codec, path=shared), storage="int8")
    return _save_net(folder, stored, weights, sha256)


def _save_net(folder: Path, config: RunConfig, weights: dict[str, Tensor], latents: str) -> str:
    """Write stage 2, and remove tables that were measured on another that lay there before."""
    named = {_bundle_name(name): w for name, w in weights.items()}
    sha256 = save_bundle(folder / LDM, to_dict(config), _narrow(named, config.storage), autoencoder=latents)
    forget_others(folder, sha256)
    return sha256


def _narrow(weights: dict[str, Tensor], storage: str) -> dict[str, Tensor]:
    if storage == "int8":
        return pack(weights)
    return {name: w.bfloat16() if w.is_floating_point() else w for name, w in weights.items()}


def _bundle_name(name: str) -> str:
    """A tensor of `Model.stored()` as its bundle names it: the U-Net's bare."""
    return name.removeprefix("net.")


def _fill(stored: nn.ModuleDict, weights: dict[str, Tensor]) -> None:
    """Unpack and load one part after the other, for what is unpacked is as large as the part itself.

    Raises:
        RuntimeError, ValueError: the weights are not those of the parts.
    """
    left = dict(weights)
    for part, module in stored.items():
        own = [name for name in left if name.startswith(f"{part}.")]
        module.load_state_dict(unpack({name.removeprefix(f"{part}."): left.pop(name) for name in own}))
    if left:
        raise ValueError(f"{min(left)} belongs to no part of it")


def _module_name(name: str) -> str:
    """The inverse of `_bundle_name`."""
    return name if name.startswith(OTHERS) else f"net.{name}"


def _where_else(path: Path) -> str:
    return f", and this is a file{CONVERT}" if path.is_file() else ""


def text_root(config: RunConfig, folder: Path) -> Path:
    """Where the text encoder's relative path starts: the first of the model folder, the folder two above it, the
    working folder and this package's own checkout that holds it.
    """
    bundle = getattr(config.text, "bundle", "")
    places = [folder, folder.parent.parent, Path.cwd(), Path(__file__).resolve().parent.parent]
    return next((place for place in places if (place / bundle).exists()), places[-1])
