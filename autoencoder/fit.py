"""Train stage 1 to its end and write the bundle."""

from pathlib import Path

import lightning
from torch import Tensor

from autoencoder.build import load_autoencoder, save_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.data import pictures, train_loader, val_loader
from autoencoder.module import AutoencoderTraining
from autoencoder.reconstructions import Reconstructions
from autoencoder.stats import LatentMoments, MomentsMeter
from ldm.core.bundle import load_bundle
from ldm.core.checkpoints import steps_done
from ldm.core.distributed import World, join
from ldm.core.one_run import DATA, MODEL, remember, same_run
from ldm.core.trainer import make_trainer, train
from ldm.data.content import content_of
from ldm.data.folder import FolderSpec, read_listing
from ldm.data.parts import chunks

BUNDLE = "autoencoder.safetensors"


def fit(config: AutoencoderConfig, out: Path, init: Path | None = None) -> Path:
    """Train, resuming from `out` where a checkpoint is there; returns the bundle's path.

    The moments of the latents are measured over the whole training set with the averaged weights.

    Args:
        config: the run.
        out: folder of checkpoints, logs and the finished bundle.
        init: bundle whose weights a fresh run starts from; for `learn: decoder` it is needed in any case.

    Raises:
        ValueError: `init` is missing or of another shape, a strategy or precision that stage 1 does not have, the data
            or a checkpoint cannot be used, `out` holds another run, or training produced NaN or infinity.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    here = join(config.trainer)
    if config.trainer.strategy == "fsdp":
        raise ValueError("trainer.strategy: 'fsdp' is for stage 2, stage 1 is small; set it to ddp")
    if config.precision in (
        "16-mixed",
        "16",
    ):  # gradients would be clipped, and the discriminator stepped, while scaled
        raise ValueError("precision: '16-mixed' scales gradients; set it to bf16-mixed or 32-true here")
    lightning.seed_everything(config.seed, verbose=False)
    done = steps_done(out)
    start = _start(init, config)
    _one_run(config, out, init, done, here)
    loaders = train_loader(config, done), val_loader(config)
    module = AutoencoderTraining(config, start[0] if start and not done else None)
    held = next(iter(loaders[1]), None)  # after the weights were drawn: a loader takes a number from their generator
    trainer = make_trainer(
        out,
        steps=config.optim.steps,
        precision=config.precision,
        validate_every=config.validate_every,
        save_every=config.save_every,
        spec=config.trainer,
        keep=config.keep,
        callbacks=[Reconstructions(held.image, out)] if held is not None else [],
        wandb=config.logger == "wandb",
        partial=module.discriminator is not None,
    )
    train(trainer, module, loaders, out)
    if not here.first:
        return out / BUNDLE
    module.to(trainer.strategy.root_device)  # which the trainer has left: there the latents are measured in its time
    return export(module, config, out / BUNDLE, start[1] if start and config.learn == "decoder" else None)


def _one_run(config: AutoencoderConfig, out: Path, init: Path | None, done: int, here: World) -> None:
    """A folder holds one run; by its pictures and the bundle that it started from, wherever they lie."""
    listing = read_listing(FolderSpec(path=config.data.train, captions="none"))
    content = {DATA: here.told(content_of(listing) if here.first else None)}
    if init is not None and (not done or config.learn == "decoder"):  # else it is not used
        content[MODEL] = load_bundle(init).sha256
    same_run(config, content, out)
    if here.first:
        remember(config, content, out)


def _start(bundle: Path | None, config: AutoencoderConfig) -> tuple[dict[str, Tensor], LatentMoments] | None:
    """The weights and moments of a bundle whose shape is the configured one."""
    if bundle is None:
        if config.learn == "decoder":
            raise ValueError("learn: 'decoder' keeps the encoder of a trained bundle; name it with --init")
        return None
    model, moments, _ = load_autoencoder(bundle)
    if model.spec != config.model:
        raise ValueError(f"{bundle}: its autoencoder is {model.spec}, but model is {config.model}; set model to that")
    return model.state_dict(), moments


def export(
    module: AutoencoderTraining, config: AutoencoderConfig, path: Path, moments: LatentMoments | None = None
) -> Path:
    """Write the averaged weights as a bundle, with `moments` or those of the training set's latents."""
    if moments is None:
        moments = _measured(module, config)
    with module.ema.applied():
        save_autoencoder(path, config, module.model.eval().float(), moments)
    return path


def _measured(module: AutoencoderTraining, config: AutoencoderConfig) -> LatentMoments:
    """Moments of the training set's latents with the averaged weights."""
    import torch

    meter = MomentsMeter(config.model.latent_channels)
    shown = pictures(config.data.train, config.data.size).readable()
    with module.ema.applied(), torch.inference_mode():
        model = module.model.eval().float()
        for samples in chunks(shown):
            meter.update(model.encode(torch.stack([s.image for s in samples]).to(module.device)))
    return meter.moments()
