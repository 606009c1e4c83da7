"""Imports point down: the contracts of .importlinter hold, and would not hold if someone broke one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-logo", "--no-cache"], cwd=folder, capture_output=True, text=True
    )


def test_imports_point_down():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("ldm/process/schedule.py", "import ldm.nets.cond"),
        ("ldm/nets/cond.py", "import ldm.build"),
        ("ldm/data/folder.py", "import autoencoder"),
        ("autoencoder/model.py", "import ldm.process.schedule"),
    ],
)
def test_an_import_upwards_is_noticed(tmp_path, file, line):
    for name in ("ldm", "autoencoder"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    broken = tmp_path / file
    broken.write_text(broken.read_text() + f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1 and "BROKEN" in result.stdout, result.stdout + result.stderr
