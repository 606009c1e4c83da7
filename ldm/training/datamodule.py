"""Batches of cached latents and text states for stage 2: endless and resumable for training, fixed for validation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ldm.build import Model
from ldm.core.bundle import content_hash
from ldm.core.device import pick_device
from ldm.core.distributed import world
from ldm.core.gaussian import Gaussian
from ldm.core.precision import autocast, dtype_of
from ldm.core.shapes import Image
from ldm.data.ahead import Ahead
from ldm.data.along import AsNeeded, GrowingCache
from ldm.data.buckets import BucketOrder
from ldm.data.content import content_of
from ldm.data.folder import FolderSpec, ImageFolder, read_listing
from ldm.data.latents import Batch, LatentCache, collated
from ldm.data.parts import ROWS
from ldm.data.position import WINDOW, Batches, BatchOrder, ResumableSampler, Shared
from ldm.data.record import Listing
from ldm.data.records import CaptionSource
from ldm.data.shards import Encoders
from ldm.data.tar import PIPE
from ldm.data.variety import Variety
from ldm.inference.lowres import low_versions
from ldm.nets.cond import Cond
from ldm.nets.guess import READING, subject_and_manner
from ldm.nets.text import TextEncoder

NO_TOKEN = -1  # in the ids of a phrase, where there is padding
Wording = Callable[[str], str]

VALIDATED_AT_ONCE = 128
FEW = WINDOW * ROWS  # views that are encoded ahead: with more the first epoch is no longer one window


def cached(
    model: Model,
    path: str,
    views: int,
    *,
    limit: int | None = None,
    captions: CaptionSource = "auto",
    word: Wording | None = None,
    listing: Listing | None = None,
) -> LatentCache:
    """The folder `path` through the model's frozen encoders, from the cache or into it.

    Args:
        model: whose encoders and configuration are used.
        path: folder of pictures.
        views: of each picture.
        limit: at most so many pictures, spread evenly; None: all.
        captions: where the captions come from.
        word: makes another caption of each; its text tells it from others.
        listing: of the folder, where it was read already.

    Raises:
        ValueError: the folder or the cached file cannot be used, or an encoder gave a value that is not finite.
    """
    spec = replace(pictures(model, path), captions=captions, limit=limit)
    return _cached(model, spec if path.startswith(PIPE) else ImageFolder(spec, listing), views, word)


def training_latents(
    model: Model,
    path: str,
    views: int,
    *,
    limit: int | None = None,
    captions: CaptionSource = "auto",
    word: Wording | None = None,
    listing: Listing | None = None,
) -> LatentCache | GrowingCache:
    """As `cached`, but where `data.encode` is "along", or "auto" and there are many, filled while training goes along.

    Raises:
        ValueError: as `cached`; a pipe is to be encoded along.
    """
    data = model.config.data
    if path.startswith(PIPE):
        if data.encode == "along":
            raise ValueError("data.encode: 'along', but a pipe is read in its own order; set it to ahead")
        return cached(model, path, views, limit=limit, captions=captions, word=word)
    folder = ImageFolder(replace(pictures(model, path), captions=captions, limit=limit), listing)
    if data.encode == "ahead" or (data.encode == "auto" and len(folder) * views <= FEW):
        return _cached(model, folder, views, word)
    return GrowingCache(
        folder,
        _encoders(model, word),
        views=views,
        directory=data.cache,
        seed=model.config.seed,
        timeout=model.config.trainer.timeout,
    )


def listed(model: Model, path: str) -> tuple[Listing | None, str]:
    """The pictures of a folder and, as the first process says, what they are; a pipe is known by its command alone.

    Raises:
        ValueError: the folder cannot be read.
    """
    if path.startswith(PIPE):
        return None, path
    listing = read_listing(pictures(model, path))
    return listing, world().told(content_of(listing) if world().first else "")


def _cached(model: Model, folder: ImageFolder | FolderSpec, views: int, word: Wording | None) -> LatentCache:
    from tqdm import tqdm

    path = folder.path if isinstance(folder, FolderSpec) else folder.spec.path
    return LatentCache(
        folder,
        _encoders(model, word),
        views=views,
        directory=model.config.data.cache,
        seed=model.config.seed,
        progress=lambda shards: tqdm(
            shards, desc=f"caching {path}", unit="shard", disable=not (shards and world().first)
        ),
    )


def _encoders(model: Model, word: Wording | None) -> Encoders:
    """The frozen encoders of a model on the device of training, and the key of what they give."""
    config, device = model.config, pick_device("auto")
    model.codec.to(device)
    model.text.to(device)  # type: ignore[attr-defined]
    narrow = dtype_of(config.precision, device)

    @torch.inference_mode()
    def encode_image(images: Image) -> Gaussian:
        with autocast(device, narrow):
            return model.codec.posterior(images.to(device, memory_format=torch.channels_last))

    @torch.inference_mode()
    def encode_low(images: Image) -> Tensor:
        assert config.low is not None
        with autocast(device, narrow):
            return low_versions(model.codec, images.to(device, memory_format=torch.channels_last), config.low)

    @torch.inference_mode()
    def encode_text(captions: Sequence[str]) -> dict[str, Tensor]:
        worded = captions if word is None else [word(caption) for caption in captions]
        with autocast(device, narrow):
            return cacheable(model, worded).present()

    key = _key(model, word, str(narrow))
    return Encoders(encode_image, encode_text, key, None if config.low is None else encode_low)


def _key(model: Model, word: Wording | None, narrow: str) -> tuple[str, ...]:
    """Everything of a model that decides what its encoders give."""
    config = model.config
    phrases = " ".join([READING, *model.unread]) if config.guess is not None else ""
    known = () if model.vocabulary is None else (model.vocabulary.key,)
    frozen = {name: tensor for name, tensor in model.unlearned().items() if name.startswith("text.")}
    text = (repr(config.text), *([content_hash({}, frozen)] if frozen else []))
    said = (repr(word), str(model.text.trainable)) if word is not None or model.text.trainable else ()
    small = () if config.low is None else (repr((config.low.factors, config.low.redrawn)),)
    return (model.latents, *text, narrow, phrases, *known, *said, *small)


def pictures(model: Model, path: str) -> FolderSpec:
    """The pictures of `path` as a model's configuration wants them."""
    data = model.config.data
    variety = Variety(flip=data.flip, shuffle_tags=data.shuffle_tags)
    return FolderSpec(path=path, size=data.size, unit=model.unit if data.buckets else None, variety=variety)


def cacheable(model: Model, captions: Sequence[str]) -> Cond:
    """What of captions never changes in training: the states of a frozen text encoder, else the token ids as tokens."""
    if not model.text.trainable:
        return model.read(captions)
    ids, mask = model.text.tokenize(captions)
    if model.guess is None:
        return Cond(ids, mask)
    found = [model.text.tokenize(phrases) for phrases in subject_and_manner(captions, model.unread)]
    return Cond(ids, mask, phrases=torch.stack([i.where(words, NO_TOKEN) for i, words in found], dim=1))


def encoded(text: TextEncoder, cond: Cond) -> Cond:
    """The conditions of token ids from `cacheable`, by a text encoder that is trained."""
    assert cond.mask is not None
    states = text.encode(cond.tokens, cond.mask)
    if cond.phrases is None:
        return states
    ids = cond.phrases.flatten(0, 1)
    pooled = text.encode(ids.clamp(min=0), ids != NO_TOKEN).pooled
    assert pooled is not None  # a guess reads it
    return replace(states, phrases=pooled.unflatten(0, (-1, 2)))


def train_loader(
    data: Dataset[Batch], n: int, batch: int, seed: int, steps_done: int, *, workers: int = 0
) -> Ahead[Batch]:
    """Endless batches, made ahead, that go on after `steps_done` optimiser steps exactly as an uninterrupted run would.

    Args:
        data: of `n` items; those of a `LatentCache` with several shapes come in batches of one shape.
        n: items.
        batch: items of all processes together in a step.
        seed: of the order.
        steps_done: optimiser steps before.
        workers: processes that load them. 0: this process.

    Raises:
        ValueError: the processes cannot share the batch evenly.
    """
    here = world()
    here.share(batch)
    growing = data if isinstance(data, GrowingCache) else None
    parts = None if growing is None else growing.parts.rows
    order: BatchOrder
    if isinstance(data, LatentCache | GrowingCache) and data.mixed:
        order = BucketOrder(data.shapes(), seed, batch=batch, parts=parts)
    else:
        order = Batches(ResumableSampler(n, seed, parts=parts), batch)
    return load(data, order, steps_done, growing, workers=workers)


def load(
    data: Dataset[Batch], order: BatchOrder, steps_done: int, growing: GrowingCache | None = None, *, workers: int = 0
) -> Ahead[Batch]:
    """This process's rows of the batches of an order, made ahead.

    Args:
        data: of which the order names items.
        order: of the batches.
        steps_done: the step to begin at.
        growing: what the first items of `data` are read from, where it is filled along.
        workers: as in `train_loader`.
    """
    if growing is None:
        rows: Sampler[list[int]] = Shared(order, steps_done, world())
        return Ahead(DataLoader(data, batch_sampler=rows, collate_fn=collated, num_workers=workers))
    needed = AsNeeded(growing, order, steps_done, world())
    return Ahead(DataLoader(data, batch_sampler=needed, collate_fn=collated, num_workers=workers), cancel=needed.cancel)


def val_loader(data: Dataset[Batch]) -> DataLoader[Batch]:
    """Everything once, in order, in batches of one shape."""
    if not isinstance(data, LatentCache) or not data.mixed:
        return DataLoader(data, VALIDATED_AT_ONCE, collate_fn=collated)
    by_shape: dict[int, list[int]] = {}
    for i, shape in enumerate(data.shapes()):
        by_shape.setdefault(shape, []).append(i)
    batches = [list(rows) for same in by_shape.values() for rows in _batches(same)]
    return DataLoader(data, batch_sampler=batches, collate_fn=collated)


def _batches(items: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), VALIDATED_AT_ONCE):
        yield items[start : start + VALIDATED_AT_ONCE]
