"""Latents and text states computed once: a training step then runs nothing but the denoiser.

The cache keeps the mean and variance of q(z | x), not a draw, so that every epoch sees fresh posterior noise. It is
one safetensors file, named by a hash of everything it depends on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import Dataset

from ldm.core.bundle import write_atomically
from ldm.core.gaussian import Gaussian
from ldm.core.rng import fold
from ldm.core.shapes import Image
from ldm.data.folder import ImageFolder
from ldm.data.position import Draw

Batch = dict[str, Tensor]
ENCODED_AT_ONCE = 64
OF_PICTURE, CAPTION = ("mean", "var"), "caption"  # by picture, and which caption each has


@dataclass(frozen=True)
class Encoders:
    """What fills a cache; `key` changes whenever either would give other numbers.

    Attributes:
        image: pictures (b, 3, h, w) to q(z | x).
        text: captions to their states by name, each of b rows; for an encoder that is being trained its input.
        key: hashes or names of both.
    """

    image: Callable[[Image], Gaussian]
    text: Callable[[Sequence[str]], dict[str, Tensor]]
    key: tuple[str, ...]


class LatentCache(Dataset[Batch]):
    """`views` views of every picture of a folder as posterior moments and text states.

    Item i is view i % views of picture i // views: a dictionary of mean, var (c, h, w) and the caption's states.

    Args:
        folder: the pictures.
        encoders: autoencoder and text encoder.
        views: views per picture; with 1, the plain one (own caption, white ground).
        directory: where the file is kept; made if missing.
        seed: of the views.
        progress: wraps the iteration over batches, e.g. tqdm.

    Raises:
        ValueError: an encoder gave a value that is not finite, or a cached file is damaged.
        OSError: the directory cannot be written.
    """

    def __init__(
        self,
        folder: ImageFolder,
        encoders: Encoders,
        *,
        views: int,
        directory: str | Path,
        seed: int,
        progress: Callable[[Any], Any] = iter,
    ):
        directory = Path(directory)
        key = _key(folder, encoders, views, seed)
        path = directory / f"latents-{key}.safetensors"
        if not path.is_file():
            directory.mkdir(parents=True, exist_ok=True)
            shown = [(i, v) for i in range(len(folder)) for v in range(views)]
            draws = [Draw(i, fold(seed, "view", i, v)) if views > 1 else i for i, v in shown]
            write_atomically(path, save(_encode(folder, draws, encoders, progress)))
        try:
            self._tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: the cache is damaged ({error}); remove it, it will be made again") from error

    def __len__(self) -> int:
        return len(self._tensors[CAPTION])

    def means_and_phrases(self) -> tuple[Tensor, Tensor]:
        """Posterior means (n, c, h, w) and the state "phrases" (n, 2, p) of all items, half precision."""
        return self._tensors["mean"], self._tensors["phrases"][self._tensors[CAPTION]]

    def __getitem__(self, index: int) -> Batch:
        caption = self._tensors[CAPTION][index]
        item = {name: self._tensors[name][index].float() for name in OF_PICTURE}
        item |= {name: states[caption] for name, states in self._tensors.items() if name not in (*OF_PICTURE, CAPTION)}
        return item


def _encode(folder: ImageFolder, draws: Sequence[Draw | int], encoders: Encoders, progress: Any) -> dict[str, Tensor]:
    means, variances, captions = [], [], []
    for rows in progress(list(_chunks(draws))):
        samples = [folder[draw] for draw in rows]
        posterior = encoders.image(torch.stack([s.image for s in samples]))
        means.append(posterior.mean.half().cpu())
        variances.append(posterior.var.half().cpu())
        captions += [s.caption for s in samples]
    distinct = sorted(set(captions))
    states = [encoders.text(chunk) for chunk in progress(list(_chunks(distinct)))]
    position = {caption: i for i, caption in enumerate(distinct)}
    found = {
        "mean": torch.cat(means).contiguous(),  # a convolution may have left them channels last
        "var": torch.cat(variances).contiguous(),
        CAPTION: torch.tensor([position[caption] for caption in captions]),
    }
    for name in states[0]:
        state = torch.cat([chunk[name].cpu() for chunk in states])
        found[name] = state.half() if state.is_floating_point() else state
    for name, tensor in found.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"latent cache: '{name}' has values that are not finite; nothing was cached")
    return found


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), ENCODED_AT_ONCE):
        yield items[start : start + ENCODED_AT_ONCE]


def _key(folder: ImageFolder, encoders: Encoders, views: int, seed: int) -> str:
    rows = [[str(r.path), r.path.stat().st_size, r.path.stat().st_mtime_ns, dict(r.columns)] for r in folder.records]
    parts = [list(encoders.key), folder.spec.size, views, seed, rows]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
