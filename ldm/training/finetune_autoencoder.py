"""Fine-tune stage 1 of a model folder: by default the decoder alone, so that the latents, and stage 2, stay valid."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoencoder.config import AutoencoderConfig
from autoencoder.fit import fit
from ldm.core.bundle import load_bundle, save_bundle
from ldm.core.config_io import from_dict, load
from ldm.core.distributed import join
from ldm.core.lock import claimed
from ldm.model_folder import AUTOENCODER, LDM, VOCABULARY, load_model
from ldm.samplers.tuned import TUNED

FOLDER = "model"


def finetune_autoencoder(model: Path, data: str, recipe: Path, overrides: Sequence[str], out: Path) -> Path:
    """Train, resuming from `out` where a checkpoint is there; returns a model folder with the new autoencoder.

    The folder is whole: that of a model whose autoencoder lies in another folder has its own afterwards, and so another
    content hash, which tuned tables and LoRAs do not name.
    Where the encoder is trained too (`learn: all`), stage 2 does not fit any more, and the result is the bundle alone.

    Args:
        model: folder to start from.
        data: folder of pictures; their captions are not read.
        recipe: YAML of an `AutoencoderConfig`; the shape of the network is that of the model.
        overrides: as in `load`.
        out: folder of checkpoints, logs and the result.

    Raises:
        ValueError: an option, the model, the data or a checkpoint cannot be used, `out` holds another run, or training
            produced NaN or infinity.
        LostProcessError: another process of the run is gone.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    start = load_model(model)
    if not start.config.codec.path:
        raise ValueError(f"--stage: {model} diffuses pixels and has no autoencoder; fine-tune stage ldm")
    home = model / start.config.codec.path
    bundle = load_bundle(home)
    shape = from_dict(AutoencoderConfig, bundle.config).model
    config = load(recipe, AutoencoderConfig, overrides, {"data.train": data})
    known = replace(config.data, size=start.config.data.size, val=config.data.val or (data,))
    config = replace(config, model=shape, data=known)
    here = join(config.trainer)
    with claimed(out):
        finished = fit(config, out, home)
        if config.learn != "decoder":
            return finished
        if here.first:
            _write(finished, model, out / FOLDER)
        here.wait()  # no process names a folder that is not whole yet
        return out / FOLDER


def _write(autoencoder: Path, model: Path, folder: Path) -> None:
    """The model with another autoencoder beside it, and all that belongs to it; read once to see that they fit."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(autoencoder, folder / AUTOENCODER)
    bundle = load_bundle(model / LDM)
    if bundle.config["codec"]["path"] == AUTOENCODER:
        _copy(model, folder, LDM, VOCABULARY, TUNED)
    else:  # it lies in another folder
        codec = bundle.config["codec"] | {"path": AUTOENCODER}
        save_bundle(folder / LDM, bundle.config | {"codec": codec}, bundle.weights, **bundle.meta)
        _copy(model, folder, VOCABULARY)
    load_model(folder)


def _copy(model: Path, folder: Path, *names: str) -> None:
    for name in names:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
