"""Batches of pictures for stage 1: endless and resumable for training, fixed for validation."""

from torch.utils.data import ConcatDataset, DataLoader

from autoencoder.config import AutoencoderConfig
from ldm.data.folder import FolderSpec, ImageFolder, Sample
from ldm.data.position import DrawSampler, ResumableSampler


def train_loader(config: AutoencoderConfig, steps_done: int, rank: int = 0, world: int = 1) -> DataLoader[Sample]:
    """Endless batches that continue after `steps_done` optimiser steps exactly as an uninterrupted run would."""
    data = config.data
    folder = ImageFolder(FolderSpec(path=data.train, size=data.size))
    start = steps_done * data.batch * world
    order = ResumableSampler(len(folder), config.seed, start, rank=rank, world=world)
    return DataLoader(folder, data.batch, sampler=DrawSampler(order), num_workers=data.workers)


def val_loader(config: AutoencoderConfig) -> DataLoader[Sample]:
    """All held-out pictures once, on white, in the order of the folders."""
    data = config.data
    folders = [ImageFolder(FolderSpec(path=path, size=data.size)) for path in data.val]
    return DataLoader(ConcatDataset(folders), data.batch, num_workers=data.workers)
