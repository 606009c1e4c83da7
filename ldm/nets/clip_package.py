"""What the installed package open_clip carries as data, read without importing it: that takes longer than drawing."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def data_file(name: str) -> Path:
    """A file of the package.

    Raises:
        ValueError: the package is not installed, or is without the file.
    """
    path = _folder() / name
    if not path.is_file():
        raise ValueError(f"text: {path} is missing, a part of CLIP; pip install --force-reinstall open-clip-torch")
    return path


def architecture(name: str) -> dict[str, Any] | None:
    """open_clip's configuration of a model, by its name; None: there is none."""
    configs = {path.stem: path for path in (_folder() / "model_configs").glob("*.json")}
    return json.loads(configs[name].read_text(encoding="utf-8")) if name in configs else None


def _folder() -> Path:
    found = find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        raise ValueError("text: CLIP's vocabulary comes with a package that is missing; pip install open-clip-torch")
    return Path(found.submodule_search_locations[0])
