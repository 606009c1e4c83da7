"""Batches of pictures for stage 1: endless and resumable for training, fixed for validation."""

from torch.utils.data import ConcatDataset, DataLoader, Subset

from autoencoder.config import AutoencoderConfig
from ldm.core.distributed import world
from ldm.data.folder import FolderSpec, ImageFolder, Sample, left_out
from ldm.data.position import DrawSampler, ResumableSampler


def train_loader(config: AutoencoderConfig, steps_done: int) -> DataLoader[Sample]:
    """Endless batches that continue after `steps_done` optimiser steps exactly as an uninterrupted run would.

    Raises:
        ValueError: as `ImageFolder`, or the processes of the run cannot share the batch evenly.
    """
    data, here = config.data, world()
    folder = ImageFolder(FolderSpec(path=data.train, size=data.size))
    if here.first:
        for line in folder.faults:
            left_out(line)
    start = steps_done * data.batch
    order = ResumableSampler(len(folder), config.seed, start, rank=here.rank, world=here.size)
    return DataLoader(folder, here.share(data.batch), sampler=DrawSampler(order), num_workers=data.workers)


def val_loader(config: AutoencoderConfig) -> DataLoader[Sample]:
    """All held-out pictures that can be read once, on white, in the order of the folders."""
    data = config.data
    folders = [ImageFolder(FolderSpec(path=path, size=data.size)) for path in data.val]
    readable = [Subset(folder, folder.readable()) for folder in folders]
    return DataLoader(ConcatDataset(readable), data.batch, num_workers=data.workers)
