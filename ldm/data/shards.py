"""One shard of a cache as a file: what is in it, how it is made, and how its rows are read.

A shard is a safetensors file that holds, for each of its rows (one view of a picture):

    mean, logvar   of q(z | x), half precision (c, h, w)
    low            for an upscaler, what it reads of small versions of the picture, half precision (k, c, h, w)
    picture        its number in the data set
    caption        which of the shard's captions it has; their states are further tensors, one row for each caption

The logarithm of the variance keeps its precision where a variance in half precision would fall to 0, below 6e-8.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ldm.core.bundle import write_atomically
from ldm.core.gaussian import Gaussian
from ldm.core.shapes import Image
from ldm.data.folder import Sample
from ldm.data.parts import Shown, chunks

FORMAT = "ldm-latents-1"
OPEN = 128  # shards that are mapped at a time
MEAN, LOGVAR, LOW, CAPTION, PICTURE = "mean", "logvar", "low", "caption", "picture"
Tensors = dict[str, Tensor]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Encoders:
    """What fills a cache; `key` changes whenever either would give other numbers.

    Attributes:
        image: pictures (b, 3, h, w) to q(z | x).
        text: captions to their states by name, each of b rows; for an encoder that is being trained its input.
        key: hashes or names of all.
        low: pictures to what an upscaler reads of k small versions of each (b, k, c, h, w); None: not for an upscaler.
    """

    image: Callable[[Image], Gaussian]
    text: Callable[[Sequence[str]], dict[str, Tensor]]
    key: tuple[str, ...]
    low: Callable[[Image], Tensor] | None = None


def shard_path(folder: Path, number: int) -> Path:
    """The file of shard `number`."""
    return folder / f"shard-{number:06}.safetensors"


def encode(shown: Iterator[Shown], encoders: Encoders) -> tuple[Tensors, list[str]]:
    """The tensors of a shard, and a line for each picture that could not be read."""
    left_out: list[str] = []
    means, logvars, lows, captions, pictures = [], [], list[Tensor](), list[str](), list[int]()
    for samples in chunks(_readable(shown, left_out)):
        images = torch.stack([s.image for s in samples])
        posterior = encoders.image(images)
        if encoders.low is not None:
            lows.append(encoders.low(images).half().cpu())
        means.append(posterior.mean.half().cpu())
        logvars.append(posterior.var.float().log().half().cpu())
        captions += [s.caption for s in samples]
        pictures += [s.index for s in samples]
    found = {PICTURE: torch.tensor(pictures, dtype=torch.int64)}
    if not pictures:
        return found, left_out
    distinct = sorted(set(captions))
    position = {caption: i for i, caption in enumerate(distinct)}
    found[CAPTION] = torch.tensor([position[caption] for caption in captions])
    found[MEAN], found[LOGVAR] = torch.cat(means), torch.cat(logvars)
    if lows:
        found[LOW] = torch.cat(lows)
    states = [encoders.text(chunk) for chunk in chunks(iter(distinct))]
    for name in states[0]:
        state = torch.cat([chunk[name].cpu() for chunk in states])
        found[name] = state.half() if state.is_floating_point() else state
    for name, tensor in found.items():
        check_finite(name, tensor, "nothing of this shard was cached")
    # a convolution may have left them channels last
    return {name: tensor.contiguous() for name, tensor in found.items()}, left_out


def check_finite(name: str, tensor: Tensor, remedy: str) -> None:
    """Refuse NaN and infinities; a variance of 0 has the logarithm -inf.

    Raises:
        ValueError: there are some.
    """
    if tensor.is_floating_point() and tensor.numel():
        low, high = torch.aminmax(tensor)  # both are NaN if anything is; 20 times as fast as isfinite on halves
        if not (high < torch.inf and (low > -torch.inf or name == LOGVAR)):
            raise ValueError(f"latent cache: '{name}' has values that are not finite in half precision; {remedy}")


def _readable(shown: Iterator[Shown], left_out: list[str]) -> Iterator[Sample]:
    for samples in shown:
        if isinstance(samples, str):
            left_out.append(samples)
        else:
            yield from samples


def write(path: Path, shard: tuple[Tensors, list[str]]) -> None:
    """Write what `encode` gave; a process that dies meanwhile leaves nothing under this name."""
    tensors, left_out = shard
    write_atomically(path, save(tensors, metadata={"format": FORMAT, "left_out": json.dumps(left_out)}))


@dataclass(frozen=True)
class Header:
    """What a shard says of itself.

    Attributes:
        rows: how many it has.
        shape: of its latents; () where it has none.
        left_out: a line for each picture that could not be read.
    """

    rows: int
    shape: tuple[int, ...]
    left_out: list[str]


def header(path: Path) -> Header | None:
    """What a shard says of itself; None where there is none, or not a whole one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                return None
            rows = file.get_slice(PICTURE).get_shape()[0]
            shape = tuple(file.get_slice(MEAN).get_shape()[1:]) if rows else ()
            return Header(rows, shape, json.loads(metadata["left_out"]))
    except SafetensorError:
        return None


class Shards:
    """The shards of a cache, mapped into memory as they are read, at most `OPEN` at a time.

    Args:
        folder: of the cache.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._open: OrderedDict[int, Tensors] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which maps what it reads itself."""
        return {"folder": self.folder, "_open": OrderedDict()}

    def __getitem__(self, number: int) -> Tensors:
        """The tensors of a shard, mapped; the one that was not used for longest is let go.

        Raises:
            ValueError: it is damaged.
        """
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = shard_path(self.folder, number)
        try:
            with safe_open(path, framework="pt") as file:
                shard = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: the cache is damaged ({error}); remove it, it will be made again") from error
        self._open[number] = shard
        if len(self._open) > OPEN:
            self._open.popitem(last=False)
        return shard

    def batch(self, places: Sequence[tuple[int, int]]) -> Batch:
        """The rows at these places (number of the shard, row), all of one shape, as one batch.

        Raises:
            ValueError: a shard is damaged, or holds values that are not finite.
        """
        rows = [self._row(*place) for place in places]
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        for name, tensor in batch.items():
            check_finite(name, tensor, f"remove {self.folder}, it will be made again")
        batch[MEAN] = batch[MEAN].float()
        batch["var"] = batch.pop(LOGVAR).float().exp()
        return batch | ({LOW: batch[LOW].float()} if LOW in batch else {})

    def _row(self, number: int, row: int) -> Tensors:
        """One row, in half precision, still in its file."""
        shard = self[number]
        caption = int(shard[CAPTION][row])
        of_row = (MEAN, LOGVAR, LOW, PICTURE)
        return {n: t[row if n in of_row else caption] for n, t in shard.items() if n != CAPTION}
