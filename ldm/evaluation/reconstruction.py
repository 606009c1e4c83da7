"""What the first stage loses: pictures it has not seen, encoded and decoded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from ldm.core import gaussian
from ldm.core.gaussian import Gaussian
from ldm.core.rng import fold
from ldm.core.shapes import Image, Latent, PerImage
from ldm.data.captions import BACKGROUNDS, WHITE, compose
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.evaluation.table import Row, mean_row

Measure = Callable[[Image, Image], PerImage]


@runtime_checkable
class Autoencoder(Protocol):
    """The first stage as this file sees it."""

    def encode(self, x: Image) -> Gaussian:
        """Posterior over latents of pictures in [-1, 1]."""

    def decode(self, z: Latent) -> Image:
        """Pictures of latents."""


def heldout_views(path: Path, size: int, seed: int, batch: int = 16) -> Iterator[Image]:
    """Every picture of a folder twice, on white and on one of the other named colours, in batches (b, 3, size, size).

    The colour is a pure function of `seed` and the picture's position. A picture without alpha is shown once.
    """
    folder = ImageFolder(FolderSpec(path=str(path), size=size))
    colours = [colour for colour in BACKGROUNDS.values() if colour != WHITE]
    waiting = []
    for i in range(len(folder)):
        pixels = folder.pixels(i)
        waiting.append(compose(pixels, WHITE))
        if pixels.shape[-1] == 4:
            waiting.append(compose(pixels, colours[fold(seed, "background", i) % len(colours)]))
        if len(waiting) >= batch:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


@torch.inference_mode()
def reconstruction_rows(
    pictures: str,
    autoencoder: Autoencoder,
    batches: Iterable[Image],
    measures: Mapping[str, Measure],
    device: torch.device | None = None,
) -> list[Row]:
    """Mean of each measure between pictures and their reconstructions, and the KL term in nats per latent dimension.

    The reconstruction is decoded from the posterior's mean and clipped to [-1, 1], as a saved picture is. A mean is
    over pictures: that of PSNR is a mean of decibels.

    Args:
        pictures: their name in the table.
        autoencoder: on `device`.
        batches: pictures (b, 3, h, w) in [-1, 1], on the CPU.
        measures: functions of (picture, reconstruction) by the name of their figure. They run on the CPU, because one
            of them may need float64, which some devices lack.
        device: where to encode and decode; None is the CPU.

    Raises:
        ValueError: no pictures.
    """
    values: dict[str, list[PerImage]] = {name: [] for name in [*measures, "KL (nats/dim)"]}
    for x in batches:
        posterior = autoencoder.encode(x.to(device))
        x_hat = autoencoder.decode(posterior.mean).float().clamp(-1, 1).cpu()
        for name, measure in measures.items():
            values[name].append(measure(x, x_hat))
        kl = gaussian.kl(posterior, gaussian.standard_normal_like(posterior.mean))
        values["KL (nats/dim)"].append(kl.cpu() / posterior.mean[0].numel())
    if not values["KL (nats/dim)"]:
        raise ValueError(f"batches: {pictures} has no pictures to reconstruct; give at least one")
    return [mean_row(pictures, name, torch.cat(parts)) for name, parts in values.items()]
