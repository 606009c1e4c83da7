"""Drawing a picture imports nothing that only training, evaluation or tests need: these cost 5 to 10 seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "diffusers",
    "ftfy",
    "lightning",
    "lpips",
    "matplotlib",
    "open_clip",
    "peft",
    "pytorch_lightning",
    "scipy",
    "sympy",
    "tensorboard",
    "timm",
    "torch._dynamo",
    "torchmetrics",
    "torchvision",
    "transformers",
}
START = {
    "pipeline": "import ldm.inference.pipeline",
    "build": "import ldm.build",
    "script": "import runpy; runpy.run_path('scripts/txt2img.py', run_name='imported')",
}
DRAWN = """
import runpy, sys, tempfile
from pathlib import Path
sys.path.append("tests/convert")
import small
from ldm.convert.diffusers import write_diffusers
with tempfile.TemporaryDirectory() as out:
    write_diffusers(small.made("1"), Path(out) / "model")
    size = ["--width", "32", "--height", "32", "--steps", "1", "--device", "cpu"]
    sys.argv = ["txt2img.py", "--model", f"{out}/model", "--prompt", "a red apple", "--out", out, *size]
    sys.path.remove("tests/convert")
    runpy.run_path("scripts/txt2img.py", run_name="imported")["main"]()
    assert list(Path(out).glob("*.png"))
"""


def imported_by(code: str) -> set[str]:
    """Modules in a fresh interpreter after `code`."""
    report = "import sys; print(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("start", START)
def test_drawing_imports_nothing_heavy(start):
    assert not imported_by(START[start]) & HEAVY


def test_drawing_with_a_stable_diffusion_folder_imports_nothing_heavy():
    assert not imported_by(DRAWN) & HEAVY


def test_a_heavy_import_is_noticed():
    assert imported_by("import scipy") & HEAVY == {"scipy"}
