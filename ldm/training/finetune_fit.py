"""Run a fine-tuning to its end, resumable, and write its result: a model folder, a LoRA or a word."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch.utils.data import ConcatDataset, Subset

from ldm.build import Model
from ldm.core.checkpoints import LAST, steps_done
from ldm.core.device import pick_device
from ldm.core.distributed import World, join, world
from ldm.core.lock import claimed
from ldm.core.one_run import DATA, HELD_OUT, MODEL, remember, same_run
from ldm.core.trainer import make_trainer, train
from ldm.data.along import GrowingCache
from ldm.data.content import content_of
from ldm.data.folder import FolderSpec, read_listing
from ldm.data.record import Listing
from ldm.data.records import CaptionSource
from ldm.data.shards import Batch
from ldm.data.tar import PIPE
from ldm.model_folder import load_model, save_model, save_vocabulary
from ldm.nets.embedding_file import save_word
from ldm.nets.lora import Lora, save_lora
from ldm.training.datamodule import cached, load, train_loader, training_latents, val_loader
from ldm.training.finetune import FinetuneConfig, FullSpec, run_config
from ldm.training.lora import LoraSpec, inject, trained, without_adapters
from ldm.training.module import Kept, LatentDiffusion
from ldm.training.prior import FOLDER, TwoSets, draw_prior, prompts
from ldm.training.samples import Samples
from ldm.training.textual_inversion import WordSpec, add_word

RESULTS = {"full": "model", "lora": "lora.safetensors", "word": "word.safetensors"}
KEPT = (LAST, f"{FOLDER}/*.png")  # what a run goes on from
WATCHED = 64  # training pictures that stand in for held-out ones where there are none


def finetune(config: FinetuneConfig, out: Path, began: float | None = None) -> Path:
    """Train, resuming from `out` where a checkpoint is there; returns the path of the result.

    Args:
        config: the run.
        out: folder of checkpoints, logs, samples and the result.
        began: when the user typed the command, by `time.monotonic`, for the log.

    Raises:
        ValueError: an option, the model, the data or a checkpoint cannot be used, another process writes to `out`, or
            training produced NaN or infinity.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    here = join(config.trainer)
    _check_processes(config, here)
    with claimed(out):
        lightning.seed_everything(config.seed, verbose=False)
        listing, held_out = _listings(config)
        content = here.told(_content(config, listing, held_out) if here.first else None)
        captions = [str(record.columns["caption"]) for record in listing.records]
        model = load_model(config.model)
        content |= {MODEL: model.key}
        same_run(config, content, out, kept=KEPT)
        if here.first:
            remember(config, content, out, kept=KEPT)
        done = steps_done(out)
        model = replace(model, config=run_config(config, model))
        drawn = _prior(config, model, captions, out)
        if not isinstance(config.learn, WordSpec):  # which the guess reads, and so teaches
            model = model.passing_over([config.token] if config.token else [])
        _make_trainable(config, model)
        prior = None if drawn is None else cached(model, str(drawn), 1)
        latents = _latents(config, model, listing, held_out)
        module = LatentDiffusion(model, kept=_kept(config, model, here))
        trainer = make_trainer(
            out,
            steps=config.optim.steps,
            precision=config.precision,
            validate_every=min(config.validate_every, config.optim.steps),
            save_every=config.save_every,
            spec=config.trainer,
            keep=config.keep,
            callbacks=(Samples(model, config.prompts_for(captions), out), FirstStep(began or time.monotonic())),
            wandb=config.logger == "wandb",
        )
        train(trainer, module, (_loader(config, latents[0], prior, done), val_loader(latents[1])), out)
        return _write(config, module, out, here)


def _check_processes(config: FinetuneConfig, here: World) -> None:
    """What several processes can share."""
    if here.size == 1:
        return
    if config.trainer.strategy == "fsdp" and not isinstance(config.learn, FullSpec):
        raise ValueError("trainer.strategy: 'fsdp' is for --method full and dreambooth; set it to ddp")
    here.share(config.data.batch)
    if config.kept is not None:
        here.share(config.kept.rows(config.data.batch), "prior.share of data.batch, in rows")


class FirstStep(Callback):
    """Says how long it took to get to the first step: reading, encoding and drawing included."""

    def __init__(self, began: float):
        self._began: float | None = began

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the first optimiser step."""
        if self._began is not None:
            trainer.print(f"first step done {time.monotonic() - self._began:.1f} s after the start", flush=True)
            self._began = None


def _listings(config: FinetuneConfig) -> tuple[Listing, Listing | None]:
    """The pictures with their own captions, and those that are held out, where there are some on disk."""
    if not config.data.train:
        raise ValueError("--data: name the folder of your pictures")
    source, val = _source(config), config.data.val
    held_out = None if val is None or val.startswith(PIPE) else read_listing(FolderSpec(path=val, captions=source))
    return read_listing(FolderSpec(path=config.data.train, captions=source)), held_out


def _content(config: FinetuneConfig, listing: Listing, held_out: Listing | None) -> dict[str, str]:
    """What the data are; of a pipe its command is taken to write the same again."""
    found = {DATA: content_of(listing)}
    if config.data.val is not None:
        found[HELD_OUT] = config.data.val if held_out is None else content_of(held_out)
    return found


def _source(config: FinetuneConfig) -> CaptionSource:
    return "auto" if config.wording.reads_captions else "none"


def _prior(config: FinetuneConfig, model: Model, captions: list[str], out: Path) -> Path | None:
    """Folder of what the model draws before it is changed; None: nothing is kept."""
    if config.kept is None:
        return None
    if world().first:
        known = model.vocabulary.captions() if model.vocabulary and config.kept.captions is None else []
        wanted = prompts(config.kept, captions, config.subject, known, config.seed)
        draw_prior(model.to(pick_device("auto")), config.kept, wanted, config.seed, out)
        model.to("cpu")  # as in the other processes; where weights are shared out, no device need hold all of them
    world().wait()
    return out / FOLDER


def _make_trainable(config: FinetuneConfig, model: Model) -> None:
    match config.learn:
        case FullSpec():
            model.denoise.requires_grad_(True).train()
        case LoraSpec() as spec:
            inject(model, spec)
        case WordSpec() as spec:
            add_word(model, spec, config.token, config.seed)


def _latents(config: FinetuneConfig, model: Model, listing: Listing, held_out: Listing | None) -> tuple[Any, Any]:
    """Training and validation latents, with their captions as they are worded here."""
    data, word, source = config.data, config.wording, _source(config)
    seen = training_latents(model, data.train, data.views, captions=source, word=word, listing=listing)
    if data.val is not None:
        return seen, cached(model, data.val, 1, captions=source, word=word, listing=held_out)
    if isinstance(seen, GrowingCache) or seen.mixed:
        few = cached(model, data.train, 1, limit=WATCHED, captions=source, word=word, listing=listing)
        return seen, few
    return seen, Subset(seen, range(0, len(seen), -(-len(seen) // WATCHED)))


def _kept(config: FinetuneConfig, model: Model, here: World) -> Kept | None:
    """How the prior is kept: adapters can be switched off, and then the model itself says what it drew."""
    if config.kept is None:
        return None
    rows = here.share(config.kept.rows(config.data.batch))
    if not isinstance(config.learn, LoraSpec) or config.learn.text:
        return Kept(rows)

    def before(x_t: Any, logsnr: Any, cond: Any) -> Any:
        with without_adapters(model.denoise):
            return model.denoise(x_t, logsnr, cond)

    return Kept(rows, before)


def _loader(config: FinetuneConfig, seen: Any, prior: Any, done: int) -> Iterable[Batch]:
    batch, workers = config.data.batch, config.data.workers
    if config.kept is None:
        return train_loader(seen, len(seen), batch, config.seed, done, workers=workers)
    growing = seen if isinstance(seen, GrowingCache) else None
    parts = None if growing is None else growing.parts.rows
    order = TwoSets((len(seen), len(prior)), batch, config.kept.rows(batch), config.seed, parts)
    return load(ConcatDataset([seen, prior]), order, done, growing, workers=workers)


def _write(config: FinetuneConfig, module: LatentDiffusion, out: Path, here: World) -> Path:
    """The result, with averaged weights, which the first process has."""
    model, weights = module.model, module.ema.weights()
    result = out / RESULTS[config.learn.kind]
    if not here.first:
        return result
    match config.learn:
        case FullSpec():
            weights |= model.unlearned()
            assert model.folder is not None  # it was loaded from there
            kept = replace(model.config, storage="bfloat16")  # 8 bits would round away what was learned
            save_model(result, kept, weights, model.folder / model.config.codec.path)
            save_vocabulary(result, model.vocabulary)
        case LoraSpec() as spec:
            words = (config.token,) if config.token else ()
            changes = trained(weights, spec.scaled_by)
            save_lora(result, Lora(changes, model.sha256, words))
        case WordSpec():
            with module.ema.applied():
                save_word(result, config.token, model.text)
    return result
