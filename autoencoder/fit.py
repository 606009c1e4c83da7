"""Train stage 1 to its end and write the bundle."""

from pathlib import Path

import lightning
from torch import Tensor

from autoencoder.build import load_autoencoder, save_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.data import train_loader, val_loader
from autoencoder.module import AutoencoderTraining
from autoencoder.stats import MomentsMeter
from ldm.core.config_io import dump_yaml
from ldm.core.trainer import make_trainer, steps_done, train
from ldm.data.folder import FolderSpec, ImageFolder

BUNDLE = "autoencoder.safetensors"


def fit(config: AutoencoderConfig, out: Path, init: Path | None = None) -> Path:
    """Train, resuming from `out` where a checkpoint is there; returns the bundle's path.

    The moments of the latents are measured over the whole training set with the averaged weights.

    Args:
        config: the run.
        out: folder of checkpoints, logs and the finished bundle.
        init: bundle whose weights a fresh run starts from.

    Raises:
        ValueError: the data or a checkpoint cannot be used, or training left the finite numbers.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    lightning.seed_everything(config.seed, verbose=False)
    done = steps_done(out)
    loaders = train_loader(config, done), val_loader(config)
    module = AutoencoderTraining(config, _weights(init, config) if init is not None and not done else None)
    trainer = make_trainer(
        out,
        steps=config.optim.steps,
        precision=config.precision,
        validate_every=config.validate_every,
        save_every=config.save_every,
    )
    (out / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    train(trainer, module, loaders, out)
    return export(module, config, out / BUNDLE)


def _weights(bundle: Path, config: AutoencoderConfig) -> dict[str, Tensor]:
    """The weights of a bundle whose shape is the configured one."""
    model, _, _ = load_autoencoder(bundle)
    if model.spec != config.model:
        raise ValueError(f"{bundle}: its autoencoder is {model.spec}, but model is {config.model}; set model to that")
    return model.state_dict()


def export(module: AutoencoderTraining, config: AutoencoderConfig, path: Path) -> Path:
    """Write the averaged weights with the latent moments of the training set as a bundle."""
    import torch

    meter = MomentsMeter(config.model.latent_channels)
    folder = ImageFolder(FolderSpec(path=config.data.train, size=config.data.size))
    with module.ema.applied(), torch.inference_mode():
        model = module.model.eval().float()
        for start in range(0, len(folder), 64):
            rows = range(start, min(start + 64, len(folder)))
            images = torch.stack([folder[i].image for i in rows]).to(module.device)
            meter.update(model.encode(images))
        save_autoencoder(path, config, model, meter.moments())
    return path
