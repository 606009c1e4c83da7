"""Fine-tune stage 1 of a model folder: by default the decoder alone, so that the latents, and stage 2, stay valid."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoencoder.config import AutoencoderConfig
from autoencoder.fit import fit
from ldm.core.bundle import load_bundle
from ldm.core.config_io import from_dict, load
from ldm.core.distributed import world
from ldm.core.lock import claimed
from ldm.model_folder import AUTOENCODER, LDM, load_model

MODEL = "model"


def finetune_autoencoder(model: Path, data: str, recipe: Path, overrides: Sequence[str], out: Path) -> Path:
    """Train, resuming from `out` where a checkpoint is there; returns a model folder with the new autoencoder.

    Where the encoder is trained too (`learn: all`), stage 2 does not fit any more, and the result is the bundle alone.

    Args:
        model: folder to start from.
        data: folder of pictures; their captions are not read.
        recipe: YAML of an `AutoencoderConfig`; the shape of the network is that of the model.
        overrides: as in `load`.
        out: folder of checkpoints, logs and the result.

    Raises:
        ValueError: an option, the model, the data or a checkpoint cannot be used, or training left the finite numbers.
        LostProcessError: another process of the run is gone.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    start = load_model(model)
    home = model / start.config.codec.path
    shape = from_dict(AutoencoderConfig, load_bundle(home).config).model
    config = load(recipe, AutoencoderConfig, overrides, {"data.train": data})
    known = replace(config.data, size=start.config.data.size, val=config.data.val or (data,))
    with claimed(out):
        bundle = fit(replace(config, model=shape, data=known), out, home)
        if config.learn != "decoder":
            return bundle
        if world().first:
            _write(bundle, model / LDM, out / MODEL)
        world().wait()  # no process names a folder that is not whole yet
        return out / MODEL


def _write(autoencoder: Path, ldm: Path, folder: Path) -> None:
    """A model folder of two bundles, which is read once to see that they fit."""
    folder.mkdir(exist_ok=True)
    for source, name in ((autoencoder, AUTOENCODER), (ldm, LDM)):
        shutil.copyfile(source, folder / name)
    load_model(folder)
