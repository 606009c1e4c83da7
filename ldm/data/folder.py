"""Pictures with captions, in any layout on disk, as a data set of (image, caption, label)."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ldm.core.decoding import read_picture
from ldm.data.buckets import Size, bucket_sizes, nearest
from ldm.data.captions import View, compose, draw_view, plain_view
from ldm.data.parquet import Row, read_parquet
from ldm.data.position import Draw
from ldm.data.record import MOST_FAULTS, Listing, Record, shown
from ldm.data.records import CaptionSource, read_records
from ldm.data.tar import PIPE, expand, read_tars
from ldm.data.variety import Variety

HOLD_MANY = (".parquet", ".tar")  # files that are data sets of their own
CONTAINERS = ("*.parquet", "*/*.parquet", "*.tar")  # looked for in a folder
report = logging.getLogger(__name__).warning  # to stderr, one line for each fault, unless an application says otherwise
named_already: set[str] = set()  # what cannot be used, as far as this process said it


def left_out(fault: object) -> None:
    """Report what cannot be used: once, however many data sets of one process it is part of."""
    line = str(fault)
    if line not in named_already:
        named_already.add(line)
        report("left out: %s", line)


@dataclass(frozen=True, kw_only=True)
class FolderSpec:
    """Which pictures to read, and how large.

    Attributes:
        path: folder with pictures and captions in a layout of `read_records`, with Parquet files or with tar shards; or
            one such file; or shards by number, e.g. "shards/{000..099}.tar".
        size: side of the square images, pixels; others are resized and centre-cropped.
        captions: where captions come from.
        unit: null: all images are squares. Else images keep their shape but for the little that is cropped so that
            both sides are multiples of `unit` pixels, see `bucket_sizes`.
        variety: what may differ between showings in training.
        limit: at most so many pictures, spread evenly over the folder; None: all.
    """

    kind: Literal["folder"] = "folder"
    path: str
    size: int = 128
    captions: CaptionSource = "auto"
    unit: int | None = None
    variety: Variety = field(default_factory=Variety)
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit}; at least 1 picture is needed, or null for all")
        if not 8 <= self.size <= 4096:
            raise ValueError(f"size: {self.size} is outside 8 to 4096 pixels")

    @property
    def sizes(self) -> list[Size]:
        """Height and width of every shape that images can have."""
        return [(self.size, self.size)] if self.unit is None else bucket_sizes(self.size, self.unit)


class Sample(NamedTuple):
    """One training example; PyTorch's default collation stacks them.

    Attributes:
        image: (3, h, w), in [-1, 1]; h = w = size but in buckets.
        caption: what the text encoder reads.
        label: class number, -1 where the data has no classes.
        index: position in the data set.
    """

    image: Float[Tensor, "3 h w"]
    caption: str
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class ImageFolder(Dataset[Sample]):
    """Pictures with their captions.

    `folder[i]` is picture i with its own caption, transparent parts over white. `folder[Draw(i, seed)]` is one of
    its many views: where the metadata has names and styles, caption and background vary with the seed (`draw_view`),
    and so does what `spec.variety` allows; elsewhere it is the same as `folder[i]`. Use the latter with `DrawSampler`
    to train: there a picture that cannot be read is named once, and the next one is shown in its place.

    Args:
        spec: which pictures, and their size.
        listing: from `read_listing` of the same path and captions, where it was read already.

    Attributes:
        records: the pictures, in the order of the indices.
        classes: names of the labels; empty where the data has none or only numbers.
        faults: one line for each picture or caption that was left out, for the caller to show.

    Raises:
        ValueError: as `read_records`: no pictures, or too many that cannot be used.
    """

    def __init__(self, spec: FolderSpec, listing: Listing | None = None):
        self.spec = spec
        listing = listing or read_listing(spec)
        self.records, self.classes, self.faults = listing.records, listing.classes, listing.faults
        if spec.limit is not None and spec.limit < len(self.records):
            self.records = [self.records[i * len(self.records) // spec.limit] for i in range(spec.limit)]
        # shared, so that of all worker processes only one names a picture
        self._named = torch.zeros(len(self.records), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | Draw) -> Sample:
        if isinstance(key, Draw):
            return self._readable(key)
        return self.showings(range(len(self))[key], [None])[0]

    def pixels(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Picture `index` fitted to its size, uint8 with 4 channels where it has alpha, else 3.

        Raises:
            ValueError: the picture cannot be decoded.
        """
        return pixels_of(self.records[index], self._size(index))

    def showings(self, index: int, seeds: Sequence[int | None]) -> list[Sample]:
        """The views of picture `index` that `seeds` decide, see `showings`.

        Raises:
            ValueError: the picture cannot be decoded.
        """
        return showings(self.records[index], self._size(index), self.spec, index, seeds)

    @cached_property
    def buckets(self) -> Tensor:
        """Which of `spec.sizes` every picture has (n,); reads the head of every file, once."""
        sizes, found = self.spec.sizes, torch.zeros(len(self), dtype=torch.int64)
        if len(sizes) > 1:
            for i, record in enumerate(self.records):
                try:
                    found[i] = nearest(size_of(record), sizes)
                except ValueError:
                    continue  # it is named when it is decoded
        return found

    @cached_property
    def groups(self) -> list[int] | None:
        """How many pictures in a row come in one read of their file; None where each is read by itself."""
        rows = [(record.path, record.inside.group) for record in self.records if isinstance(record.inside, Row)]
        return [len(list(group)) for _, group in groupby(rows)] or None

    def readable(self) -> Iterator[Sample]:
        """Every picture that can be decoded, plain, in order, one at a time; the others are named."""
        for index in range(len(self)):
            try:
                yield self[index]
            except ValueError as error:
                self._name(index, error)

    def problems(self) -> Iterator[str]:
        """Decode everything: one line for each unreadable picture and each fault of the listing."""
        for index in range(len(self)):
            try:
                self.pixels(index)
            except ValueError as error:
                yield str(error)
        yield from self.faults

    def _readable(self, draw: Draw) -> Sample:
        """The drawn picture or, where it cannot be read, the next one that can."""
        for index in (*range(draw.index, len(self)), *range(draw.index)):
            try:
                return self.showings(index, [draw.seed])[0]
            except ValueError as error:
                self._name(index, error)
        raise ValueError(f"{self.spec.path}: not one picture can be read; look at them with scripts/check_data.py")

    def _name(self, index: int, error: ValueError) -> None:
        if not self._named[index]:
            self._named[index] = True
            left_out(error)

    def _size(self, index: int) -> Size:
        return self.spec.sizes[0] if self.spec.unit is None else self.spec.sizes[int(self.buckets[index])]


def read_listing(spec: FolderSpec, most: float = MOST_FAULTS) -> Listing:
    """What is in the data set, without decoding a picture; `most` is the share of it that may be left out.

    Raises:
        ValueError: as `read_records`, `read_parquet` and `read_tars`.
    """
    if spec.path.startswith(PIPE):
        raise ValueError(
            f"{spec.path}: a pipe is read once, in order, into the cache of stage 2; give shards on disk here"
        )
    captions = spec.captions != "none"
    paths = [Path(path) for path in expand(spec.path)]
    if len(paths) == 1 and paths[0].is_dir():
        paths = next(filter(None, (sorted(paths[0].glob(name)) for name in CONTAINERS)), paths)
    missing = [path for path in paths if not path.is_file()]
    if paths and paths[0].suffix in HOLD_MANY and missing:
        raise ValueError(f"{shown(missing[0])}: no such file")
    if paths and paths[0].suffix == ".parquet":
        return read_parquet(paths, captions, most)
    if paths and paths[0].suffix == ".tar":
        return read_tars(paths, captions, most)
    return read_records(Path(spec.path), spec.captions, most)


def showings(record: Record, size: Size, spec: FolderSpec, index: int, seeds: Sequence[int | None]) -> list[Sample]:
    """Views of one picture, which is decoded once.

    Args:
        record: the picture.
        size: height and width of the images.
        spec: what may differ between showings.
        index: of the samples.
        seeds: decide one showing each; None is the plain view, the picture's own caption over white.

    Raises:
        ValueError: the picture cannot be decoded.
    """
    pixels = pixels_of(record, size)
    views = [plain_view(record.columns) if s is None else _drawn(record, spec, s) for s in seeds]
    return [Sample(image=_image(pixels, view), caption=view.caption, label=record.label, index=index) for view in views]


def _drawn(record: Record, spec: FolderSpec, seed: int) -> View:
    return spec.variety.of(draw_view(record.columns, seed), seed)


def _image(pixels: UInt8[np.ndarray, "h w c"], view: View) -> Float[Tensor, "3 h w"]:
    image = compose(pixels, view.background)
    return image.flip(-1) if view.mirror else image


def pixels_of(record: Record, size: Size) -> UInt8[np.ndarray, "h w c"]:
    """Decode a record.

    Raises:
        ValueError: the picture cannot be decoded.
    """
    try:
        source = record.open()
    except (OSError, ValueError) as error:
        raise ValueError(f"{record.name}: the picture cannot be read: {error}") from error
    return decode(source, size, record.name)


def size_of(record: Record) -> Size:
    """Height and width of a picture as it is shown, upright, from the head of its file.

    Raises:
        ValueError: it is no picture.
    """
    try:
        with Image.open(record.open()) as opened:
            width, height = opened.size
            turned = opened.getexif().get(0x0112, 1) >= 5
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{record.name}: the picture cannot be read: {error}") from error
    return (width, height) if turned else (height, width)


def decode(source: Path | BytesIO, size: Size, name: str) -> UInt8[np.ndarray, "h w c"]:
    """Decode a picture in any format that Pillow reads, upright, fitted to (height, width, 3 or 4) uint8.

    It is resized to cover `size` (Lanczos, antialiased, premultiplied where there is alpha), both sides by the same
    factor, and what is too long is cropped in the middle. A picture of that size already is left as it is.

    Raises:
        ValueError: it is no picture, it is damaged, or it has several frames.
    """
    height, width = size
    picture = read_picture(source, name)
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.array(picture)
