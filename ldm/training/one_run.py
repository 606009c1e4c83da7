"""A folder holds one run: it goes on only with the settings, the model and the data that it began with.

Settings are compared as they are written. Model and data are compared by what they are, so that their folders may have
moved meanwhile, and a picture that was exchanged in its place is seen.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoencoder.config import AutoencoderConfig
from ldm.core.bundle import write_atomically
from ldm.core.config_io import dump_yaml, load
from ldm.training.finetune import FinetuneConfig

SETTINGS = "config.yaml"
STARTED_FROM = "started-from.txt"  # lines of a name and its content, by hashes
DATA, HELD_OUT, MODEL = "data", "data.val", "model"
FIXED = (
    "data",
    "learn",
    "token",
    "subject",
    "prior",
    "prompts",
    "model",
    "loss",
    "seed",
)  # where there is such a field
Config = FinetuneConfig | AutoencoderConfig


def same_settings(config: Config, out: Path) -> None:
    """Length, rate and logs of a run may change, and what does not change its steps.

    Raises:
        ValueError: `out` holds a run with other settings.
    """
    if not (out / SETTINGS).is_file():
        return
    before, placed = load(out / SETTINGS, type(config)), DATA not in _started_from(out)
    for name in FIXED:
        if _settled(before, name, placed) != _settled(config, name, placed):
            raise _another(out, name)


def same_content(found: Mapping[str, str], out: Path) -> None:
    """What a run started from stays what it was.

    Args:
        found: hashes by name, `DATA`, `HELD_OUT` or `MODEL`.
        out: folder of the run.

    Raises:
        ValueError: `out` holds a run that started from something else.
    """
    before = _started_from(out)
    for name, value in found.items():
        if before.get(name, value) != value:
            raise _another(out, name)


def remember(config: Config, found: Mapping[str, str], out: Path) -> None:
    """Write down what the run in `out` is, for `same_settings` and `same_content`."""
    lines = "".join(f"{name} {value}\n" for name, value in found.items())
    write_atomically(out / STARTED_FROM, lines.encode())
    write_atomically(out / SETTINGS, dump_yaml(config).encode())


def _settled(config: Config, name: str, placed: bool) -> Any:
    """A field, without what does not change the steps of a run; `placed`: its data are known by their place alone."""
    match config, name:
        case FinetuneConfig(data=data), "data":
            data = replace(data, cache="", workers=0)
            return data if placed else replace(data, train="", val=None if data.val is None else "")
        case AutoencoderConfig(data=pictures), "data":
            pictures = replace(pictures, val=(), workers=0)  # they are only looked at
            return pictures if placed else replace(pictures, train="")
        case FinetuneConfig(), "model":
            return None  # it is known by what it is
    return getattr(config, name, None)


def _started_from(out: Path) -> dict[str, str]:
    path = out / STARTED_FROM
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def _another(out: Path, name: str) -> ValueError:
    return ValueError(f"--out: {out} holds a run with another {name}; give another folder, or remove it to start again")
