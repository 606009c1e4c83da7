"""A few pictures of a folder, or picture files, as a model sees them: on 8-bit values, with posterior and caption."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldm.build import Model
from ldm.core.gaussian import Gaussian, sample
from ldm.core.images import to_float, to_uint8
from ldm.core.rng import NoiseStream, fold
from ldm.core.shapes import Image, Latent
from ldm.data.captions import WHITE, compose
from ldm.data.folder import HOLD_MANY, FolderSpec, ImageFolder, pixels_of
from ldm.data.record import Record
from ldm.nets.cond import Cond


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures in memory.

    Attributes:
        images: (n, 3, size, size) in [-1, 1], each value one of 256, as a saved picture has.
        captions: what each is called; "" where nobody said.
        names: where each comes from.
    """

    images: Image
    captions: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch of pictures on the device of its model, ready to be measured.

    Attributes:
        images: (b, 3, size, size).
        posterior: q(z | x), a point for diffusion on pixels.
        z: one draw from it (b, *d).
        cond: their captions' conditions.
        noise: one stream per picture, a function of the seed and of its position alone.
    """

    images: Image
    posterior: Gaussian
    z: Latent
    cond: Cond
    noise: NoiseStream


def read_pictures(paths: Sequence[Path], size: int, count: int | None = None, seed: int = 0) -> Pictures:
    """`count` pictures drawn at random from folders and files, or all, over white.

    Args:
        paths: data sets as `FolderSpec` has them, folders, Parquet files or tar shards, or picture files, which have
            no caption.
        size: side, pixels; others are resized and cropped.
        count: None is all of them.
        seed: of the choice.

    Raises:
        ValueError: no picture, `count` below 1, a folder without captions, or a picture that cannot be read.
    """
    if count is not None and count < 1:
        raise ValueError(f"samples: {count} pictures; give at least one")
    found: list[Record] = []
    for path in paths:
        if path.is_dir() or path.suffix in HOLD_MANY:
            found += ImageFolder(FolderSpec(path=str(path), size=size)).records
        else:
            found.append(Record(path=path, columns={"caption": ""}))
    if not found:
        raise ValueError("data: no pictures given; give a folder or picture files")
    if count is not None and count < len(found):
        found = [found[i] for i in sorted(random.Random(fold(seed, "pictures")).sample(range(len(found)), count))]
    images = torch.stack([compose(pixels_of(record, (size, size)), WHITE) for record in found])
    eight_bits = to_float(to_uint8(images))  # what lies over white need not be on the 256 values
    captions = tuple(str(record.columns["caption"]) for record in found)
    return Pictures(eight_bits, captions, tuple(record.name for record in found))


@torch.no_grad()
def encoded(model: Model, pictures: Pictures, seed: int, batch: int = 8) -> Iterator[Encoded]:
    """The pictures in batches, on the model's device, in float32.

    Raises:
        ValueError: a latent is not finite.
    """
    device = next(model.denoise.parameters()).device
    for start in range(0, len(pictures), batch):
        rows = slice(start, start + batch)
        images = pictures.images[rows].to(device)
        noise = NoiseStream([fold(seed, "bits", start + i) for i in range(len(images))])
        posterior = model.codec.posterior(images)
        z = sample(posterior, noise.normal(posterior.mean.shape, like=posterior.mean))
        if not bool(torch.isfinite(z).all()):
            raise ValueError("latents: the encoder gave values that are not finite; the weights are damaged")
        yield Encoded(images, posterior, z, model.condition(pictures.captions[rows]), noise)
