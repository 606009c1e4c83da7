"""A folder of pictures as a data set of (image, caption, label)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ldm.core.decoding import read_picture
from ldm.data.captions import View, compose, draw_view, plain_view
from ldm.data.position import Draw
from ldm.data.records import CaptionSource, metadata_file, pictures_below, read_records


@dataclass(frozen=True, kw_only=True)
class FolderSpec:
    """Which folder to read, and how large.

    Attributes:
        path: folder with pictures and captions; the layouts are those of `read_records`.
        size: side of the square images, pixels; others are resized and centre-cropped.
        captions: where captions come from.
    """

    kind: Literal["folder"] = "folder"
    path: str
    size: int = 128
    captions: CaptionSource = "auto"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise ValueError(f"size: {self.size} is outside 8 to 4096 pixels")


class Sample(NamedTuple):
    """One training example; PyTorch's default collation stacks them.

    Attributes:
        image: (3, size, size), in [-1, 1].
        caption: what the text encoder reads.
        label: class number, -1 where the data has no classes.
        index: position in the data set.
    """

    image: Float[Tensor, "3 h w"]
    caption: str
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class ImageFolder(Dataset[Sample]):
    """Pictures of a folder with their captions.

    `folder[i]` is picture i with its own caption, transparent parts over white. `folder[Draw(i, seed)]` is one of
    its many views (`draw_view`): where the metadata has names and styles, caption and background vary with the
    seed; elsewhere it is the same as `folder[i]`. Use the latter with `DrawSampler` to train.

    Args:
        spec: which folder, and the size of the images.

    Attributes:
        records: the pictures, in the order of the indices.
        classes: names of the labels; empty where the data has none or only numbers.

    Raises:
        ValueError: as `read_records`: no pictures, a missing or duplicated file, a picture without caption.
    """

    def __init__(self, spec: FolderSpec):
        self.spec = spec
        self.records, self.classes = read_records(Path(spec.path), spec.captions)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | Draw) -> Sample:
        if isinstance(key, Draw):
            return self._sample(key.index, draw_view(self.records[key.index].columns, key.seed))
        return self._sample(key, plain_view(self.records[key].columns))

    def pixels(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Picture `index` fitted to (size, size), uint8 with 4 channels where it has alpha, else 3.

        Raises:
            ValueError: the picture cannot be decoded.
        """
        return read_pixels(self.records[index].path, self.spec.size)

    def problems(self) -> Iterator[str]:
        """Decode everything: one line for each unreadable picture and each that the metadata does not name."""
        for index in range(len(self)):
            try:
                self.pixels(index)
            except ValueError as error:
                yield str(error)
        root = Path(self.spec.path)
        source = metadata_file(root)
        if source and self.spec.captions in ("auto", "metadata"):
            named = {record.path for record in self.records}
            yield from (f"{path}: not named in {source.name}" for path in pictures_below(root) if path not in named)

    def _sample(self, index: int, view: View) -> Sample:
        record = self.records[index]
        image = compose(self.pixels(index), view.background)
        return Sample(image=image, caption=view.caption, label=record.label, index=index % len(self))


def read_pixels(path: Path, size: int) -> UInt8[np.ndarray, "h w c"]:
    """Decode a picture in any format that Pillow reads, upright, fitted to (size, size, 3 or 4) uint8.

    The short side is resized to `size` (Lanczos, antialiased, premultiplied where there is alpha) and the long side
    cropped in the middle. A picture of that size already is left as it is.

    Raises:
        ValueError: the file is no picture, it is damaged, or it has several frames.
    """
    picture = read_picture(path)
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return np.array(picture)
