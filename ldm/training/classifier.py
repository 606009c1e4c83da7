"""Train a classifier of noisy latents, for classifier guidance of a finished model, and write it as a bundle."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ldm.build import Model
from ldm.config import TimesSpec
from ldm.core.bundle import save_bundle
from ldm.core.checkpoints import steps_done, use_settings
from ldm.core.config_io import to_dict
from ldm.core.ema import Ema
from ldm.core.gaussian import Gaussian, sample
from ldm.core.limits import at_least, run_lengths
from ldm.core.one_run import DATA, MODEL, remember, same_run
from ldm.core.optim import OptimSpec, adamw, clip, scheduled
from ldm.core.precision import AUTO, Precision
from ldm.core.rng import NoiseStream, fold
from ldm.core.trainer import make_trainer, train
from ldm.data.content import content_of
from ldm.data.folder import FolderSpec, read_listing
from ldm.data.latents import Batch, LatentCache
from ldm.model_folder import load_model
from ldm.nets.classifier import NoisyClassifier, NoisyClassifierSpec
from ldm.process.conditionals import q_sample
from ldm.process.schedule import Schedule
from ldm.process.times import LowDiscrepancy
from ldm.training.datamodule import cached, train_loader, val_loader

BUNDLE = "classifier.safetensors"
LEVELS = 4  # equal parts of t in which the accuracy is logged


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Pictures and what to tell apart.

    Attributes:
        column: of the folders' metadata; its distinct values in the training folder are the classes.
        train: folder of training pictures.
        val: folder of held-out pictures.
        batch: pictures per step.
        views: how many views of a picture the cache holds.
        cache: folder of cached latents.
    """

    column: str
    train: str = "data/emoji/train"
    val: str = "data/emoji/heldout_concepts"
    batch: int = 64
    views: int = 4
    cache: str = "runs/cache"

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch, views=self.views)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything that decides the training of a classifier; saved, resolved, with its weights.

    Attributes:
        model: folder of the diffusion model to guide; its autoencoder, schedule and size of pictures are used.
        net: shape of the classifier.
        data: pictures and labels.
        times: how training levels are drawn.
        optim: optimiser, learning rate and length.
        precision: Lightning's name; "auto": bfloat16 where the machine is faster in it.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        seed: of initial weights, order of the data and noise.
    """

    model: str = "models/emoji"
    net: NoisyClassifierSpec
    data: LabelledData
    times: TimesSpec = field(default_factory=LowDiscrepancy)
    optim: OptimSpec = field(default_factory=OptimSpec)
    precision: Precision = AUTO
    validate_every: int = 500
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        run_lengths(self)


class Labelled(Dataset[Batch]):
    """A latent cache with a label for each picture: item i is mean, var (c, h, w) and label ().

    Args:
        cache: views of the pictures.
        labels: of the pictures, in the order of the data set.
    """

    def __init__(self, cache: LatentCache, labels: Sequence[int]):
        self._cache, self._labels = cache, torch.tensor(labels)[cache.pictures()]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Batch:
        item = self._cache[index]
        return {"mean": item["mean"], "var": item["var"], "label": self._labels[index]}


def values_of(folder: str, column: str) -> list[str]:
    """The metadata column of every picture of a folder, in the order of `ImageFolder`.

    Raises:
        ValueError: the folder cannot be read, or a picture has nothing in that column.
    """
    records = read_listing(FolderSpec(path=folder)).records
    for record in records:
        if record.columns.get(column) in (None, ""):
            raise ValueError(
                f"data.column: {column!r} is missing for {record.name}; known: {', '.join(record.columns)}"
            )
    return [str(record.columns[column]) for record in records]


class ClassifierTraining(lightning.LightningModule):
    """Trains and validates a classifier on noisy copies of cached latents, at every level of the schedule.

    Args:
        config: the run.
        schedule: of the model that is to be guided.
    """

    def __init__(self, config: ClassifierConfig, schedule: Schedule):
        super().__init__()
        self.config, self.schedule = config, schedule
        self.net = NoisyClassifier(config.net)
        self.ema = Ema(self.net, config.optim.ema)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Cross-entropy, nats, of one noisy copy of every latent of the batch."""
        noise = NoiseStream([fold(self.config.seed, "train", self.global_step)])
        loss, right, t = self._classified(batch, noise)
        self.log("train/loss", loss, prog_bar=True)
        self._log_levels("train", right, t)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The same with the averaged weights and fixed noise."""
        noise = NoiseStream([fold(self.config.seed, "val", batch_index)])
        with self.ema.applied():
            loss, right, t = self._classified(batch, noise)
        self.log("val/loss", loss, batch_size=len(t), prog_bar=True)
        self._log_levels("val", right, t)

    def configure_optimizers(self) -> Any:
        """AdamW at the configured rate."""
        return scheduled(adamw(self.net, self.config.optim), self.config.optim)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """After the optimiser, the average."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update()

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Shorten gradients that are longer than the configured norm."""
        clip(self.trainer, optimizer, self.config.optim)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averaged weights."""
        checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the averaged weights, with the optimiser as it is configured now."""
        self.ema.load_state_dict(checkpoint["ema"])
        use_settings(checkpoint, self.config.optim)

    def _classified(self, batch: Batch, noise: NoiseStream) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy (), whether each image was recognised (b,), and its time (b,)."""
        mean = batch["mean"]
        z, eps = (noise.normal((1, *mean.shape), like=mean[None])[0] for _ in range(2))
        t = self.config.times.draw(len(mean), noise, self.schedule).to(mean.device)
        logsnr = self.schedule(t)
        logits = self.net(q_sample(sample(Gaussian(mean, batch["var"]), z), eps, logsnr), logsnr).float()
        right = (logits.detach().argmax(1) == batch["label"]).float()
        return F.cross_entropy(logits, batch["label"]), right, t

    def _log_levels(self, stage: str, right: Tensor, t: Tensor) -> None:
        for part in range(LEVELS):
            inside = (t >= part / LEVELS) & (t < (part + 1) / LEVELS)
            share = (right * inside).sum() / inside.sum().clamp(min=1)
            self.log(f"{stage}/accuracy_t{part}", share, batch_size=len(t))


def fit(config: ClassifierConfig, out: Path) -> Path:
    """Train, resuming from `out` where a checkpoint is there; returns the bundle's path.

    The bundle's meta names the autoencoder by content hash, the schedule, the column and its classes in the order of
    the logits; `ldm.nets.classifier.load_classifier` reads it.

    Args:
        config: the run.
        out: folder of checkpoints, logs and the finished bundle.

    Raises:
        ValueError: the model, the data or a checkpoint cannot be used, `out` holds another run, or training
            produced NaN or infinity.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    lightning.seed_everything(config.seed, verbose=False)
    done = steps_done(out)
    values = [values_of(folder, config.data.column) for folder in (config.data.train, config.data.val)]
    classes = sorted(set(values[0]))
    model = load_model(config.model)
    _check(config, model, classes, values[1])
    content = {DATA: content_of(read_listing(FolderSpec(path=config.data.train))), MODEL: model.key}
    same_run(config, content, out)
    remember(config, content, out)
    seen, held_out = _labelled(config, model, classes, values)
    module = ClassifierTraining(config, model.schedule)
    trainer = make_trainer(
        out,
        steps=config.optim.steps,
        precision=config.precision,
        validate_every=config.validate_every,
        save_every=config.save_every,
    )
    loaders = train_loader(seen, len(seen), config.data.batch, config.seed, done), val_loader(held_out)
    train(trainer, module, loaders, out)
    meta = {"autoencoder": model.latents, "schedule": to_dict(model.schedule)}
    save_bundle(out / BUNDLE, to_dict(config), module.ema.weights(), **meta, column=config.data.column, classes=classes)
    return out / BUNDLE


def _labelled(
    config: ClassifierConfig, model: Model, classes: list[str], values: list[list[str]]
) -> tuple[Labelled, Labelled]:
    """Training and held-out latents with their labels."""
    settings = replace(model.config.data, cache=config.data.cache)
    model = replace(model, config=replace(model.config, data=settings, precision=config.precision))
    number = {name: i for i, name in enumerate(classes)}
    train_labels, val_labels = ([number[value] for value in column] for column in values)
    seen = cached(model, config.data.train, config.data.views)
    held_out = cached(model, config.data.val, 1)
    return Labelled(seen, train_labels), Labelled(held_out, val_labels)


def _check(config: ClassifierConfig, model: Model, classes: list[str], held_out: list[str]) -> None:
    """The classifier must fit the data and the latents."""
    unknown = sorted(set(held_out) - set(classes))
    if unknown:
        raise ValueError(f"data.val: {config.data.column} {unknown[0]!r} is not in data.train; remove its pictures")
    if config.net.classes != len(classes):
        found = f"'{config.data.column}' has {len(classes)} values ({', '.join(classes)})"
        raise ValueError(f"net.classes: {config.net.classes}, but {found}; set it to {len(classes)}")
    size = model.config.data.size
    channels, height, width = model.codec.latent_shape(size, size)
    if config.net.in_channels != channels:
        raise ValueError(f"net.in_channels: {config.net.in_channels}, but latents have {channels}; set it to that")
    multiple = 2 ** (len(config.net.mult) - 1)
    if height % multiple or width % multiple:
        raise ValueError(f"net.mult: {len(config.net.mult)} levels halve {height}x{width} latents too often; use fewer")
