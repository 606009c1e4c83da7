"""Batches of cached latents and text states for stage 2: endless and resumable for training, fixed for validation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldm.build import Model
from ldm.core.gaussian import Gaussian
from ldm.core.shapes import Image
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.latents import Batch, Encoders, LatentCache
from ldm.data.position import ResumableSampler
from ldm.inference.pipeline import autocast


def cached(model: Model, path: str, views: int, codec_hash: str) -> LatentCache:
    """The folder `path` through the model's frozen encoders, from the cache or into it.

    Raises:
        ValueError: the folder or the cached file cannot be used, or an encoder gave a value that is not finite.
    """
    from tqdm import tqdm

    config = model.config
    device = next(model.denoise.parameters()).device
    narrow = torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32

    @torch.inference_mode()
    def encode_image(images: Image) -> Gaussian:
        with autocast(device, narrow):
            return model.codec.posterior(images.to(device, memory_format=torch.channels_last))

    @torch.inference_mode()
    def encode_text(captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        with autocast(device, narrow):
            tokens, mask, pooled = fields_of(model, captions)
        return tokens.float(), mask, pooled.float()

    encoders = Encoders(encode_image, encode_text, (codec_hash, repr(config.text), str(narrow)))
    return LatentCache(
        ImageFolder(FolderSpec(path=path, size=config.data.size)),
        encoders,
        views=views,
        directory=config.data.cache,
        seed=config.seed,
        progress=lambda batches: tqdm(batches, desc=f"caching {path}", unit="batch"),
    )


def fields_of(model: Model, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and pooled state of captions, with a full mask or an empty pooled state where there is none."""
    cond = model.condition(captions)
    mask = torch.ones(cond.tokens.shape[:2], dtype=torch.bool) if cond.mask is None else cond.mask
    pooled = cond.tokens.new_zeros(len(captions), 0) if cond.pooled is None else cond.pooled
    return cond.tokens, mask, pooled


def train_loader(data: Dataset[Batch], n: int, batch: int, seed: int, steps_done: int) -> DataLoader[Batch]:
    """Endless batches that continue after `steps_done` optimiser steps exactly as an uninterrupted run would."""
    order = ResumableSampler(n, seed, steps_done * batch)
    return DataLoader(data, batch, sampler=order)


def val_loader(data: Dataset[Batch]) -> DataLoader[Batch]:
    """Everything once, in order."""
    return DataLoader(data, 128)
