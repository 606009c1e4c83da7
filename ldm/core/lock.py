"""One process for an output folder: two that write the same checkpoints would spoil both runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # by which a launcher numbers the processes of one run


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold the folder within the block. A process that dies, even by kill -9, lets it go.

    Of the processes of one distributed run only the first claims it. Where the system has no file locks (Windows)
    nothing is checked.

    Raises:
        ValueError: another process holds it.
    """
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    if rank != "0":
        yield
        return
    with (out / NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--out: another process is writing to {out}; wait for it, or give another folder"
            ) from None
        yield
