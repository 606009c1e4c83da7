"""A folder holds one run: it goes on only with the settings, the model and the data that it began with.

Settings are compared as they are written. Model and data are compared by what they are, so that their folders may have
moved meanwhile, and a picture that was exchanged in its place is seen.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm.core.bundle import write_atomically
from ldm.core.checkpoints import LAST
from ldm.core.config_io import dump_yaml, read_tree, to_dict

SETTINGS = "config.yaml"
STARTED_FROM = "started-from.txt"  # lines of a name and its content, by hashes
DATA, HELD_OUT, MODEL, CODEC, INIT = "data", "data.val", "model", "codec", "init"
# the keys that say where that lies, which may change where it is known what lay there
PLACES = {"data.train": DATA, "model": MODEL, "teacher": MODEL, "codec.path": CODEC, "init": INIT}
# Length, rate and logs of a run may change, and what does not change which pictures its steps see, or what they ask.
FREE = (
    *("optim", "trainer", "precision", "storage", "compile", "net.checkpoint", "sample"),
    *("validate_every", "save_every", "keep", "logger", "data.val", "data.workers", "data.cache"),
)


def same_run(
    config: Any, found: Mapping[str, str], out: Path, *, free: Sequence[str] = FREE, kept: Sequence[str] = (LAST,)
) -> None:
    """Refuse to go on in a folder with another run than the one that it holds, if it holds one.

    Args:
        config: the run, a dataclass.
        found: what it starts from: hashes by name, `DATA`, `HELD_OUT`, `MODEL`, `CODEC` or `INIT`.
        out: folder of the run.
        free: dotted keys that may differ; of a section, all in it.
        kept: patterns of the files that a run would go on from; a folder without any holds no run yet.

    Raises:
        ValueError: `out` holds a run with other settings, or one that started from something else.
    """
    if not _begun(out, kept) or not (out / SETTINGS).is_file():
        return
    before = _started_from(out)
    for name, value in found.items():
        if before.get(name, value) != value:
            raise ValueError(
                f"--out: {out} holds a run with another {name}; give another folder, or what it began with"
            )
    moved = [key for key, name in PLACES.items() if name in before]
    for key, old, new in _differences(read_tree(out / SETTINGS), to_dict(config)):
        inside = any(key == each or key.startswith(f"{each}.") for each in free)
        if not inside and not (key in moved and isinstance(new, str)):
            raise ValueError(
                f"--out: {out} holds a run with {key} {_shown(old)}, and now it is {_shown(new)}; give another folder, "
                "or the old value"
            )


def remember(config: Any, found: Mapping[str, str], out: Path, *, kept: Sequence[str] = (LAST,)) -> None:
    """Write down what the run in `out` is, for `same_run`; the arguments are as there.

    Raises:
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    known = (_started_from(out) if _begun(out, kept) else {}) | dict(found)
    lines = "".join(f"{name} {value}\n" for name, value in known.items())
    write_atomically(out / STARTED_FROM, lines.encode())
    write_atomically(out / SETTINGS, dump_yaml(config).encode())


def _begun(out: Path, kept: Sequence[str]) -> bool:
    return any(next(out.glob(pattern), None) for pattern in kept)


def _differences(before: Any, now: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys with the old and the new value; a key that one of two versions does not know is no difference."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        inner = [(key, f"{where}.{key}" if where else str(key)) for key in now if key in before]
        return [found for key, path in inner for found in _differences(before[key], now[key], path)]
    return [] if before == now else [(where, before, now)]


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return "a section" if isinstance(value, Mapping) else repr(value)


def _started_from(out: Path) -> dict[str, str]:
    path = out / STARTED_FROM
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}
