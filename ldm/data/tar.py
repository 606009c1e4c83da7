"""Tar shards (the WebDataset convention): files of one sample share their name up to the first dot.

A shard on disk is indexed once, and its pictures are then read in any order like files of a folder, so that order,
resuming and the split between processes are those of any other data set. A shard that comes out of a command
(`pipe:...`) can only be read from its beginning to its end.

The readers of the `webdataset` package are endless streams without a position to resume at; the standard library has
all that an index needs.
"""

import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ldm.data.record import MOST_FAULTS, Fault, Listing, Record, caption_of, check_share, class_numbers, shown
from ldm.data.records import SUFFIXES

PIPE = "pipe:"
READ = {*SUFFIXES, ".txt", ".json", ".cls"}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
Files = dict[str, Any]  # by suffix: text as str, JSON as a dictionary, a picture as its `Inside`


@dataclass(frozen=True)
class Member:
    """A picture in a tar file: where its bytes are."""

    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return shown(Path(self.name))

    def read(self, path: Path) -> bytes:
        """Its bytes."""
        with path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Held:
    """A picture that came out of a pipe: its bytes are here."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return shown(Path(self.name))

    def read(self, path: Path) -> bytes:
        """Its bytes."""
        return self.data


def expand(pattern: str) -> list[str]:
    """`a-{000..002}.tar` as a-000.tar, a-001.tar, a-002.tar; several ranges multiply."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    numbers = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return [name for i in numbers for name in expand(f"{pattern[: found.start()]}{i}{pattern[found.end() :]}")]


def read_tars(paths: list[Path], captions: bool = True, most: float = MOST_FAULTS) -> Listing:
    """Index shards on disk: every picture that has a caption, by reading headers and captions only.

    Args:
        paths: uncompressed tar files; a sample is a picture with `.txt` (its caption) or `.json` (its columns, with
            `caption` or `text` among them), and perhaps `.cls` (its label).
        captions: whether a picture needs a caption; without, it is empty.
        most: share of the pictures that may be left out.

    Raises:
        ValueError: a file is missing or no plain tar, or more than `most` of the pictures cannot be used.
    """
    records: list[Record] = []
    faults: list[str] = []
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                records += _records(path, tar, _member, captions, faults)
        except tarfile.ReadError as error:
            raise ValueError(
                f"{shown(path)}: not a plain tar ({error}); give a compressed one as pipe:gzip -dc ..."
            ) from error
    check_share(shown(paths[0]), len(records), faults, most)
    numbers, classes = class_numbers([dict(record.columns) for record in records])
    labelled = [
        Record(path=r.path, columns=r.columns, label=number, inside=r.inside)
        for r, number in zip(records, numbers, strict=True)
    ]
    return Listing(records=labelled, classes=classes, faults=faults)


def stream_tar(command: str, faults: list[str], captions: bool = True) -> Iterator[Record]:
    """The samples of the tar that a shell command writes, in order, with their pictures in memory.

    Args:
        command: after `pipe:`, e.g. "curl -s https://host/shard-0001.tar"; a plain path is read as a file.
        faults: what is wrong with single samples is added here.
        captions: whether a picture needs a caption.

    Raises:
        ValueError: the command failed, or what it writes ends in the middle or is no tar.
    """
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield from _records(Path(PIPE + command), tar, _held, captions, faults, whole=True)
        except tarfile.ReadError as error:
            raise ValueError(f"{PIPE}{command}: no whole tar came out of it ({error})") from error
        finally:
            process.stdout.close()
    if process.returncode:
        raise ValueError(f"{PIPE}{command}: the command ended with exit code {process.returncode}")


Take = Callable[[tarfile.TarFile, tarfile.TarInfo], Any]


def _records(
    path: Path, tar: tarfile.TarFile, take: Take, captions: bool, faults: list[str], *, whole: bool = False
) -> Iterator[Record]:
    """One record for every sample with a picture; a shard on disk that breaks off is used up to there."""
    samples = _samples(tar, take)
    while True:
        try:
            key, files = next(samples)
        except StopIteration:
            return
        except tarfile.ReadError as error:
            if whole:
                raise
            faults.append(f"{shown(path)}: breaks off ({error})")
            return
        try:
            yield _record(path, key, files, captions)
        except Fault as fault:
            faults.append(str(fault))


def _samples(tar: tarfile.TarFile, take: Take) -> Iterator[tuple[str, Files]]:
    """Neighbouring members of one name, without what follows its first dot."""
    key, files = "", Files()
    for member in tar:
        if not member.isfile() or Path(member.name).suffix.lower() not in READ:
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        if name != key and files:
            yield key, files
            files = {}
        key = name
        files["." + suffix.lower()] = take(tar, member)
    if files:
        yield key, files
    if (
        tar.fileobj is not None and tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE
    ):  # the module takes it for the end
        raise tarfile.ReadError("no end mark")


def _record(path: Path, key: str, files: Files, captions: bool) -> Record:
    where = f"{shown(path)} {shown(Path(key))}"
    pictures = [content for suffix, content in files.items() if suffix in SUFFIXES]
    if not pictures:
        raise Fault(f"{where}: a caption without its picture")
    columns = _columns(where, files)
    columns["caption"] = caption_of(columns, where) if captions else ""
    return Record(path=path, columns=columns, inside=pictures[0])


def _columns(where: str, files: Files) -> dict[str, Any]:
    """What the text files of a sample say."""
    columns: dict[str, Any] = {}
    try:
        if ".json" in files:
            columns |= json.loads(files[".json"])
        if ".txt" in files:
            columns["caption"] = files[".txt"].decode("utf-8-sig")
        if ".cls" in files:
            columns["label"] = files[".cls"].decode().strip()
    except (ValueError, TypeError) as error:
        raise Fault(f"{where}: its text cannot be read: {error}") from error
    return columns


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] | None = tar.extractfile(member)
    assert file is not None  # only members that are files are taken
    return file.read()


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return Member(member.name, member.offset_data, member.size) if _is_picture(member) else _content(tar, member)


def _held(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return Held(member.name, _content(tar, member)) if _is_picture(member) else _content(tar, member)


def _is_picture(member: tarfile.TarInfo) -> bool:
    return Path(member.name).suffix.lower() in SUFFIXES
