"""Batches of cached latents and text states for stage 2: endless and resumable for training, fixed for validation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldm.build import Model
from ldm.core.bundle import content_hash
from ldm.core.gaussian import Gaussian
from ldm.core.precision import autocast, dtype_of
from ldm.core.shapes import Image
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.latents import Batch, Encoders, LatentCache
from ldm.data.position import ResumableSampler
from ldm.nets.cond import Cond
from ldm.nets.guess import READING


def cached(model: Model, path: str, views: int) -> LatentCache:
    """The folder `path` through the model's frozen encoders, from the cache or into it.

    Raises:
        ValueError: the folder or the cached file cannot be used, or an encoder gave a value that is not finite.
    """
    from tqdm import tqdm

    config = model.config
    device = next(model.denoise.parameters()).device
    narrow = dtype_of(config.precision, device)

    @torch.inference_mode()
    def encode_image(images: Image) -> Gaussian:
        with autocast(device, narrow):
            return model.codec.posterior(images.to(device, memory_format=torch.channels_last))

    @torch.inference_mode()
    def encode_text(captions: Sequence[str]) -> dict[str, Tensor]:
        with autocast(device, narrow):
            return cacheable(model, captions).present()

    phrases = READING if config.guess is not None else ""
    frozen = {name: tensor for name, tensor in model.unlearned().items() if name.startswith("text.")}
    text = (repr(config.text), *([content_hash({}, frozen)] if frozen else []))
    encoders = Encoders(encode_image, encode_text, (model.latents, *text, str(narrow), phrases))
    return LatentCache(
        ImageFolder(FolderSpec(path=path, size=config.data.size)),
        encoders,
        views=views,
        directory=config.data.cache,
        seed=config.seed,
        progress=lambda batches: tqdm(batches, desc=f"caching {path}", unit="batch"),
    )


def cacheable(model: Model, captions: Sequence[str]) -> Cond:
    """What of captions never changes in training: the states of a frozen text encoder, else the token ids as tokens."""
    if not model.text.trainable:
        return model.read(captions)
    ids, mask = model.text.tokenize(captions)
    return Cond(ids, mask)


def train_loader(data: Dataset[Batch], n: int, batch: int, seed: int, steps_done: int) -> DataLoader[Batch]:
    """Endless batches that continue after `steps_done` optimiser steps exactly as an uninterrupted run would."""
    order = ResumableSampler(n, seed, steps_done * batch)
    return DataLoader(data, batch, sampler=order)


def val_loader(data: Dataset[Batch]) -> DataLoader[Batch]:
    """Everything once, in order."""
    return DataLoader(data, 128)
