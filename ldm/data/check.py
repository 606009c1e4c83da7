"""Look at a data set before anything is trained on it: what is there, what is wrong, and how it looks."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps

from ldm.core.bundle import write_atomically
from ldm.core.rng import fold
from ldm.data.buckets import Size, bucket_sizes, kept_share, nearest
from ldm.data.duplicates import Look, look_of, near_duplicates
from ldm.data.folder import FolderSpec, decode, read_listing, size_of
from ldm.data.lettering import font_for
from ldm.data.record import Record, shown

COLUMNS, THUMB, LINE = 8, 128, 14  # of the contact sheet: pictures a row, their side and a line of text, pixels
ON_SHEET = 64
AT_ONCE = 64


@dataclass(frozen=True)
class Seen:
    """A picture that was looked at.

    Attributes:
        record: which.
        size: height and width, pixels, upright.
        look: for comparison with others.
    """

    record: Record
    size: Size
    look: Look


@dataclass(frozen=True)
class Findings:
    """What was found in a data set.

    Attributes:
        spec: which one, and the size that is meant to be trained at.
        unit: what the sides of buckets are multiples of, pixels.
        seen: the pictures that can be used.
        faults: a line for each picture, row or caption that cannot be used.
        groups: indices into `seen` of pictures that are (almost) the same.
    """

    spec: FolderSpec
    unit: int
    seen: list[Seen]
    faults: list[str]
    groups: list[list[int]]

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"{self.spec.path}: {len(self.seen)} pictures can be used, {len(self.faults)} things cannot"
        yield from _sizes([s.size for s in self.seen], self.spec.size)
        yield from _shapes([s.size for s in self.seen], self.spec.size, self.unit)
        yield from _captions([str(s.record.columns["caption"]) for s in self.seen])
        for fault in self.faults:
            yield f"cannot be used: {fault}"
        for group in self.groups:
            names = " = ".join(self.seen[i].record.name for i in group)
            yield f"(almost) the same: {names}"


def check(spec: FolderSpec, unit: int, progress: Callable[[Any], Any] = iter) -> Findings:
    """Decode every picture once and compare them all.

    Args:
        spec: the data set, and the size of training.
        unit: of aspect-ratio buckets, pixels; `spec.size` is a multiple of it.
        progress: wraps the iteration over the pictures, e.g. tqdm.

    Raises:
        ValueError: there is no data set, or not one picture can be read.
    """
    bucket_sizes(spec.size, unit)  # refuses what does not fit, before the work
    listing = read_listing(spec, most=1.0)
    seen, faults = list[Seen](), list(listing.faults)
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        chunks = [listing.records[i : i + AT_ONCE] for i in range(0, len(listing.records), AT_ONCE)]
        for chunk in progress(chunks):
            for found in pool.map(_look, chunk):
                if isinstance(found, Seen):
                    seen.append(found)
                else:
                    faults.append(found)
    if not seen:
        raise ValueError(f"{faults[0]}; of {len(listing.records)} pictures not one can be read")
    return Findings(spec, unit, seen, faults, near_duplicates([s.look for s in seen]))


def contact_sheet(findings: Findings, path: Path, seed: int = 0) -> int:
    """Up to 64 pictures, whole, drawn by `seed`, with the beginnings of their captions, as a PNG.

    Returns:
        How many captions no font of this machine has the letters of; their pictures are named by a number.

    Raises:
        OSError: the file cannot be written; no half-written one stays.
    """
    unwritten = 0
    chosen = random.Random(fold(seed, "sheet")).sample(findings.seen, min(ON_SHEET, len(findings.seen)))
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (THUMB + 8) + 8, rows * (THUMB + LINE + 12) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for i, seen in enumerate(chosen):
        left, top = 8 + i % COLUMNS * (THUMB + 8), 8 + i // COLUMNS * (THUMB + LINE + 12)
        picture = Image.fromarray(_whole(seen.record, seen.size))
        small = ImageOps.contain(picture, (THUMB, THUMB))
        sheet.paste(small, (left + (THUMB - small.width) // 2, top + (THUMB - small.height) // 2))
        caption = " ".join(str(seen.record.columns["caption"]).split())
        font = font_for(caption, LINE - 4)
        if font is None:
            unwritten, caption, font = unwritten + 1, f"picture {i + 1}", font_for("picture", LINE - 4)
        while pen.textlength(caption, font) > THUMB:
            caption = caption[:-2].rstrip(".") + "."
        pen.text((left, top + THUMB + 2), caption, "black", font)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = BytesIO()
    sheet.save(written, "png")
    write_atomically(path, written.getvalue())
    return unwritten


def _look(record: Record) -> Seen | str:
    try:
        size = size_of(record)
        return Seen(record, size, look_of(_whole(record, size)))
    except ValueError as error:
        return str(error)


def _whole(record: Record, size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """A picture in its own size, over white."""
    pixels = decode(record.open(), size, record.name)
    if pixels.shape[2] == 3:
        return pixels
    picture = Image.fromarray(pixels)
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def _sizes(sizes: Sequence[Size], wanted: int) -> Iterator[str]:
    short = sorted(min(size) for size in sizes)
    middle = short[len(short) // 2]
    yield f"short side: {short[0]} to {short[-1]} pixels, half of them at least {middle}"
    small = sum(side < wanted for side in short)
    if small:
        what = "picture is" if small == 1 else "pictures are"
        yield f"{small} {what} smaller than {wanted} pixels and would be enlarged"


def _shapes(sizes: Sequence[Size], size: int, unit: int) -> Iterator[str]:
    squares = [(size, size)]
    buckets = bucket_sizes(size, unit)
    count = Counter(nearest(found, buckets) for found in sizes)
    cut, kept = (
        100 * (1 - sum(kept_share(f, some[nearest(f, some)]) for f in sizes) / len(sizes))
        for some in (squares, buckets)
    )
    yield f"cropped away: {cut:.1f} % as squares, {kept:.1f} % in buckets of multiples of {unit} pixels"
    for number, pictures in sorted(count.items()):
        height, width = buckets[number]
        yield f"  {width} x {height} ({width / height:.2f}): {pictures}"


def _captions(captions: Sequence[str]) -> Iterator[str]:
    lengths = sorted(len(caption.split()) for caption in captions)
    count = Counter(captions)
    middle = lengths[len(lengths) // 2]
    yield f"captions: {len(count)} different, {lengths[0]} to {lengths[-1]} words, half of them at least {middle}"
    for caption, times in count.most_common(5):
        if times > 1:
            yield f"  {times} pictures: {shown(caption[:60])}"
