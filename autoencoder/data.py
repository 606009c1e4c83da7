"""Batches of pictures for stage 1: endless and resumable for training, fixed for validation."""

from pathlib import Path

from torch.utils.data import ConcatDataset, DataLoader, Subset

from autoencoder.config import AutoencoderConfig
from ldm.core.distributed import world
from ldm.data.folder import FolderSpec, ImageFolder, Sample, left_out
from ldm.data.position import DrawSampler, ResumableSampler
from ldm.data.records import has_metadata


def pictures(path: str, size: int) -> ImageFolder:
    """The pictures of a data set, with or without captions, which nobody reads here.

    Metadata are read where there are some: pictures with a name and a style are shown on grounds of many colours.

    Raises:
        ValueError: as `ImageFolder`.
    """
    return ImageFolder(FolderSpec(path=path, size=size, captions="metadata" if has_metadata(Path(path)) else "none"))


def train_loader(config: AutoencoderConfig, steps_done: int) -> DataLoader[Sample]:
    """Endless batches that continue after `steps_done` optimiser steps exactly as an uninterrupted run would.

    Raises:
        ValueError: as `ImageFolder`, or the processes of the run cannot share the batch evenly.
    """
    data, here = config.data, world()
    folder = pictures(data.train, data.size)
    if here.first:
        for line in folder.faults:
            left_out(line)
    start = steps_done * data.batch
    n, groups = len(folder), folder.groups
    order = ResumableSampler(n, config.seed, start, rank=here.rank, world=here.size, parts=groups, always=True)
    return DataLoader(folder, here.share(data.batch), sampler=DrawSampler(order), num_workers=data.workers)


def val_loader(config: AutoencoderConfig) -> DataLoader[Sample]:
    """All held-out pictures that can be read once, on white, in the order of the folders."""
    data = config.data
    folders = [pictures(path, data.size) for path in data.val]
    readable = [Subset(folder, [sample.index for sample in folder.readable()]) for folder in folders]
    return DataLoader(ConcatDataset(readable), data.batch, num_workers=data.workers)
