"""Random squares of pictures: stage 1 learns from parts of many pictures for the cost of a few whole ones."""

import random

import torch
from jaxtyping import Float
from torch import Tensor

from autoencoder.config import AutoencoderDataSpec
from ldm.core.distributed import World
from ldm.core.rng import fold
from ldm.core.shapes import Image

Cut = Float[Tensor, "n 3 side_h side_w"]  # fewer pictures, or smaller ones


def train_view(images: Image, data: AutoencoderDataSpec, progress: float, seed: int, here: World | None = None) -> Cut:
    """What a step trains on: one random square of every picture or, at the end of the run, a few pictures whole.

    Args:
        images: the step's pictures (b, 3, size, size), of this process.
        data: `crop` and `whole` decide.
        progress: share of the run that is done, in [0, 1].
        seed: of this step.
        here: this process among those that share the step; None: it is alone.

    Returns:
        (b, 3, crop, crop), or max(1, b crop^2 / size^2) of the pictures, which has as many pixels.
    """
    if data.crop is None:
        return images
    height, width = images.shape[-2:]
    if progress >= 1 - data.whole:
        return images[: max(1, len(images) * data.crop**2 // (height * width))]
    rng, here = random.Random(fold(seed, "crop")), here or World()
    corners = [
        (rng.randint(0, height - data.crop), rng.randint(0, width - data.crop)) for _ in range(len(images) * here.size)
    ]
    mine = corners[here.rank :: here.size]
    squares = [x[:, t : t + data.crop, s : s + data.crop] for x, (t, s) in zip(images, mine, strict=True)]
    return torch.stack(squares)
