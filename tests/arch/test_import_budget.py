"""Drawing a picture imports nothing that only training, evaluation or tests need: these cost 5 to 10 seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "diffusers",
    "lightning",
    "lpips",
    "matplotlib",
    "open_clip",
    "peft",
    "pytorch_lightning",
    "scipy",
    "tensorboard",
    "timm",
    "torchmetrics",
    "torchvision",
    "transformers",
}
START = {
    "pipeline": "import ldm.inference.pipeline",
    "build": "import ldm.build",
    "script": "import runpy; runpy.run_path('scripts/txt2img.py', run_name='imported')",
}


def imported_by(code: str) -> set[str]:
    """Top-level packages in a fresh interpreter after `code`."""
    report = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("start", START)
def test_drawing_imports_nothing_heavy(start):
    assert not imported_by(START[start]) & HEAVY


def test_a_heavy_import_is_noticed():
    assert imported_by("import scipy") & HEAVY == {"scipy"}
