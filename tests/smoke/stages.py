"""The scripts as a user runs them: real processes, from the folder of the checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(script: str, *options: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, f"scripts/{script}.py", *map(str, options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def finish(process: subprocess.Popen[str], within: float = 170) -> str:
    """Standard output of a process that must succeed in so many seconds."""
    out, err = process.communicate(timeout=within)
    assert process.returncode == 0, err
    return out


def autoencoder_options(shapes: Path, out: Path, *changes: str) -> list[str]:
    settings = [f"data.train={shapes}/train", f"data.val=[{shapes}/val]", *changes]
    return ["--config", "configs/smoke/autoencoder.yaml", "--out", str(out), *_set(settings)]


def ldm_options(shapes: Path, autoencoder: Path, out: Path, *changes: str) -> list[str]:
    settings = [f"data.train={shapes}/train", f"data.val={shapes}/val", f"data.cache={out.parent}/cache"]
    settings += [f"codec.path={autoencoder}", *changes]
    return ["--config", "configs/smoke/ldm.yaml", "--out", str(out), *_set(settings)]


def _set(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def assert_refused(result, *words: str) -> None:
    """What the fixture `txt2img` gave is a refusal of one line with these words, and nothing was drawn."""
    code, lines, files = result
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ") and all(word in lines[0] for word in words), lines
    assert files == []
