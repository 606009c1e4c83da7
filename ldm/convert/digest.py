"""SHA-256 of large files, computed once: the result is remembered by path, size and time of change."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ldm.core.bundle import write_atomically


def files_sha256(paths: Sequence[Path]) -> str:
    """One hash for several files, by their content, in this order; of one file it is that file's own.

    Raises:
        OSError: a file cannot be read.
    """
    digests = [file_sha256(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's content, by which other programs name a checkpoint too.

    Raises:
        OSError: the file cannot be read.
    """
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    known = _remembered()
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        _remember(known)
    return known[key]


def _memory() -> Path:
    """Where digests are kept.

    Raises:
        RuntimeError: the user has no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "ldm" / "sha256.json"


def _remembered() -> dict[str, str]:
    try:
        known = json.loads(_memory().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, str]) -> None:
    """Where there is no room to remember, nothing is lost but time. Files that are gone are forgotten."""
    known = {key: digest for key, digest in known.items() if Path(key.rsplit(":", 2)[0]).is_file()}
    try:
        _memory().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_memory(), json.dumps(known, indent=1).encode())
    except (OSError, RuntimeError):
        return
