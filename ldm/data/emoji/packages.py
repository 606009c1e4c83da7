"""The pinned npm packages that the emoji data set is made of, fetched with the npm client and checked by hash."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FETCH_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package at one version, with the SHA-256 of its tarball.

    Attributes:
        name: npm name, e.g. "@iconify-json/noto".
        version: exact version.
        sha256: hex digest of the tarball that `npm pack` writes.
        art: who drew or wrote the content, as credits name them.
        licence: SPDX name of the licence of the content.
        source: where the content comes from.
    """

    name: str
    version: str
    sha256: str
    art: str
    licence: str
    source: str

    @property
    def filename(self) -> str:
        """File name that `npm pack` gives the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package(
    name="@iconify-json/noto",
    version="1.2.9",
    sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    art="Noto Emoji, Google Inc",
    licence="Apache-2.0",
    source="https://github.com/googlefonts/noto-emoji",
)
NOTO_V1 = Package(
    name="@iconify-json/noto-v1",
    version="1.2.5",
    sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    art="Noto Emoji (v1), Google Inc",
    licence="Apache-2.0",
    source="https://github.com/googlefonts/noto-emoji",
)
TWEMOJI = Package(
    name="@iconify-json/twemoji",
    version="1.2.5",
    sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    art="Twemoji, Twitter, Inc and other contributors",
    licence="CC-BY-4.0",
    source="https://github.com/jdecked/twemoji",
)
FLUENT = Package(
    name="@iconify-json/fluent-emoji",
    version="1.2.7",
    sha256="8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    art="Fluent Emoji, Microsoft Corporation",
    licence="MIT",
    source="https://github.com/microsoft/fluentui-emoji",
)
FLUENT_FLAT = Package(
    name="@iconify-json/fluent-emoji-flat",
    version="1.2.6",
    sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    art="Fluent Emoji Flat, Microsoft Corporation",
    licence="MIT",
    source="https://github.com/microsoft/fluentui-emoji",
)
FLUENT_HIGH_CONTRAST = Package(
    name="@iconify-json/fluent-emoji-high-contrast",
    version="1.2.6",
    sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    art="Fluent Emoji High Contrast, Microsoft Corporation",
    licence="MIT",
    source="https://github.com/microsoft/fluentui-emoji",
)
FLUENT_3D = Package(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    art="Fluent Emoji 3D, Microsoft Corporation, packaged by LobeHub",
    licence="MIT",
    source="https://github.com/microsoft/fluentui-emoji",
)
EMOJIONE = Package(
    name="@iconify-json/emojione",
    version="1.2.3",
    sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    art="EmojiOne 2.3.0 (colored), Emoji One, maintained as EmojiTwo",
    licence="CC-BY-4.0",
    source="https://github.com/EmojiTwo/emojitwo",
)
FXEMOJI = Package(
    name="@iconify-json/fxemoji",
    version="1.2.2",
    sha256="f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    art="Firefox OS Emoji, Mozilla",
    licence="Apache-2.0",
    source="https://github.com/mozilla/fxemoji",
)
EMOJIBASE = Package(
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    art="Emojibase names, keywords and groups, Miles Johnson, from Unicode CLDR (Unicode, Inc.)",
    licence="MIT, Unicode-3.0",
    source="https://github.com/milesj/emojibase",
)
EMOJILIB = Package(
    name="emojilib",
    version="4.0.3",
    sha256="7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
    art="emojilib keywords, Mu-An Chiou",
    licence="MIT",
    source="https://github.com/muan/emojilib",
)


def fetch(package: Package, cache: Path) -> Path:
    """Path of the package's tarball in `cache`, fetched with `npm pack` where it is not there yet.

    Raises:
        ValueError: npm is missing or fails, or the file is not the one that was pinned.
    """
    path = cache / package.filename
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _npm_pack(package, cache)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{path}: sha256 expected {package.sha256}, found {found}; delete the file to have it fetched again"
        )
    return path


def read_json(tarball: Path, member: str) -> Any:
    """Parsed JSON file `member` (inside the tarball's `package/`)."""
    with tarfile.open(tarball) as archive:
        try:
            stream = archive.extractfile(f"package/{member}")
        except KeyError:
            raise ValueError(f"{tarball}: holds no package/{member}; is it the pinned version?") from None
        assert stream is not None
        return json.load(stream)


def read_files(tarball: Path, folder: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """(stem, content) of every file in the tarball's `package/<folder>/` whose name ends in `suffix`."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = Path(member.name)
            if member.isfile() and path.parent == Path("package", folder) and path.suffix == suffix:
                stream = archive.extractfile(member)
                assert stream is not None
                yield path.stem, stream.read()


def _npm_pack(package: Package, cache: Path) -> None:
    spec = f"{package.name}@{package.version}"
    by_hand = f"or put {package.filename} into {cache}"
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"npm is not installed, so {spec} cannot be fetched; install Node.js, {by_hand}")
    command = [npm, "pack", spec, "--ignore-scripts", "--pack-destination", str(cache)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"npm pack {spec} took over {FETCH_SECONDS} s; check the network, {by_hand}") from None
    if done.returncode != 0 or not (cache / package.filename).exists():
        said = [line.removeprefix("npm error ") for line in done.stderr.splitlines() if "npm error" in line]
        reason = ", ".join(said[:2]) or f"exit status {done.returncode}"
        raise ValueError(f"npm pack {spec} failed ({reason}); check the network, {by_hand}")
