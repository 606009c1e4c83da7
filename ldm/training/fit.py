"""Train stage 2 to its end and write the model folder."""

from pathlib import Path

import lightning

from ldm.build import Model, build_codec, build_denoiser, build_guess, latents_name
from ldm.config import RunConfig
from ldm.core.checkpoints import LAST, steps_done
from ldm.core.distributed import World, join
from ldm.core.one_run import CODEC, DATA, MODEL, remember, same_run
from ldm.core.trainer import make_trainer, train
from ldm.data.along import GrowingCache
from ldm.data.latents import LatentCache
from ldm.data.record import Listing
from ldm.model_folder import load_model, save_model, save_vocabulary, text_root
from ldm.nets.guess import LatentGuess
from ldm.nets.text import ClipSpec, TextEncoder, build_text
from ldm.training.datamodule import cacheable, cached, listed, train_loader, training_latents, val_loader
from ldm.training.guess import Lesson, UnseenGuesses, train_guess, train_unseen
from ldm.training.module import LatentDiffusion
from ldm.training.samples import samples_of
from ldm.training.vocabulary import vocabulary_of

NOTHING = "none"  # what a run without --init starts from
KEPT = (LAST, "guess*")  # what a run goes on from


def fit(config: RunConfig, out: Path, init: Path | None = None) -> Path:
    """Train, resuming from `out` where a checkpoint is there; returns the model folder.

    Args:
        config: the run.
        out: folder of checkpoints, logs and the finished model (`out/model`).
        init: model folder whose weights a fresh run starts from; its autoencoder must be the configured one.

    Raises:
        ValueError: the data, a checkpoint or the autoencoder cannot be used, `out` holds another run, or training
            produced NaN or infinity.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    here = join(config.trainer)
    lightning.seed_everything(config.seed, verbose=False)
    done = steps_done(out)
    model = build_for_training(config, out, init)
    frozen = "text" in model.stored() and not model.text.trainable  # no checkpoint of the run has it
    started = load_model(init) if init is not None and (frozen or not done) else None
    if started is not None:
        _take_over(model, started, ("text",) if done else tuple(model.stored()))
    listing = _one_run(model, started, out, here)
    seen = _seen(model, listing)
    held_out = cached(model, config.data.val, 1)
    guess = started.guess if started is not None else None
    unseen = ready_guess(model, seen, out, guess) if isinstance(seen, LatentCache) else None
    module = LatentDiffusion(model, unseen=unseen)
    trainer = make_trainer(
        out,
        steps=config.optim.steps,
        precision=config.precision,
        validate_every=config.validate_every,
        save_every=config.save_every,
        spec=config.trainer,
        keep=config.keep,
        callbacks=samples_of(model, config.data.val, out),
        wandb=config.logger == "wandb",
    )
    data = config.data
    batches = train_loader(seen, len(seen), data.batch, config.seed, done, workers=data.workers)
    train(trainer, module, (batches, val_loader(held_out)), out)
    weights = module.ema.weights() | model.unlearned()
    if here.first:
        save_model(out / "model", config, weights, Path(config.codec.path))
        save_vocabulary(out / "model", vocabulary_of(model, data.train))
    return out / "model"


def _one_run(model: Model, started: Model | None, out: Path, here: World) -> Listing | None:
    """A folder holds one run, by what it starts from, wherever that lies; returns the pictures, which a pipe hides."""
    config = model.config
    listing, data = listed(model, config.data.train)
    content = {DATA: data, CODEC: model.latents}
    if started is not None:
        content[MODEL] = started.key
    elif not (out / LAST).is_file():
        content[MODEL] = NOTHING  # else a guess that was taken over would be gone on from without its U-Net
    same_run(config, content, out, kept=KEPT)
    if here.first:
        remember(config, content, out, kept=KEPT)
    return listing


def _seen(model: Model, listing: Listing | None) -> LatentCache | GrowingCache:
    """The latents to train on: all of them where a guess is trained on them before the U-Net is."""
    data = model.config.data
    if model.guess is None:
        return training_latents(model, data.train, data.views, limit=data.limit, listing=listing)
    if data.encode == "along":
        raise ValueError(
            "data.encode: 'along', but the guess is trained on all latents before the U-Net is; set it to ahead, or "
            "guess to null"
        )
    return cached(model, data.train, data.views, limit=data.limit, listing=listing)


def _take_over(model: Model, started: Model, parts: tuple[str, ...]) -> None:
    """Copy networks of `started`; its guess is trained on, see `ready_guess`."""
    try:
        for part in set(parts) - {"guess"}:
            model.stored().get_submodule(part).load_state_dict(started.stored().get_submodule(part).state_dict())
    except (RuntimeError, AttributeError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"--init: {started.folder} has a network of another shape ({first})") from error


def ready_guess(model: Model, seen: LatentCache, out: Path, start: LatentGuess | None = None) -> UnseenGuesses | None:
    """Train the guess of a model, if it has one, or take it from `out` or `start`: `train_guess`, `train_unseen`."""
    if model.guess is None:
        return None
    null = cacheable(model, [""]).phrases
    assert null is not None  # it is there whenever there is a guess
    config = model.config
    lesson = Lesson(seen.means_and_phrases(), null[0].detach().cpu(), config.data.drop_caption, config.seed)
    train_guess(model.guess, lesson, out, start)
    return train_unseen(model.guess, lesson, seen.pictures(), out)


def build_for_training(config: RunConfig, out: Path, init: Path | None = None) -> Model:
    """The model of a configuration with random weights; `init` is what they are taken over from later, if they are.

    Raises:
        ValueError: the autoencoder or the text encoder cannot be used, or does not fit the network.
    """
    codec, latents = build_codec(config.codec, Path())
    text = build_text(config.text, text_root(config, out))
    _check_text(config, text, init)
    if text.trainable and config.trainer.strategy == "fsdp":
        raise ValueError("trainer.strategy: 'fsdp' shares out the U-Net alone; set text.trainable to false, or use ddp")
    name = latents_name(latents, config.codec)
    return Model(config, build_denoiser(config), config.schedule, codec, text, build_guess(config), name)


def _check_text(config: RunConfig, text: TextEncoder, init: Path | None) -> None:
    """The network must fit the encoder, and the encoder must be one that a saved model finds again."""
    if isinstance(config.text, ClipSpec) and config.text.kept and not text.trainable and init is None:
        raise ValueError(
            "text: the encoder would stay random; set trainable to true, name pretrained weights, or give --init with "
            "a model that has it"
        )
    for field, width in (("context_dim", text.width), ("pooled_dim", text.pooled_width)):
        if getattr(config.net, field) not in (0, width):
            found = getattr(config.net, field)
            raise ValueError(f"net.{field}: {found}, but the text encoder gives {width}; set it to that")
    if config.guess is not None and text.trainable:
        raise ValueError("guess: it is trained before the text encoder would be; set text.trainable to false")
    if config.guess is not None and config.guess.pooled_dim != text.pooled_width:
        found, width = config.guess.pooled_dim, text.pooled_width
        raise ValueError(
            f"guess.pooled_dim: {found}, but the text encoder gives {width}; set it to that or leave it out"
        )
