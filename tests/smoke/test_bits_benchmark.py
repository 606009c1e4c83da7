"""The likelihood papers' figures are printed for a model, by the command of `benchmarks/`."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bits(model_folder, shapes, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / "benchmarks" / "bits.py"))["main"]
    monkeypatch.setitem(main.__globals__, "BATCHES", 20)

    def run(*options: str) -> str:
        fixed = ["--model", model_folder, "--data", shapes / "val", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["bits.py", *map(str, [*fixed, *options])])
        main()
        return capsys.readouterr().out

    return run


def test_every_figure_is_printed_with_its_error(bits):
    printed = bits("--samples", "4", "--levels", "40")
    for figure in (
        "10 even steps, analytic / beta",
        "10 even steps, beta / beta-tilde",
        "all 40 steps, analytic",
        "32 steps, best path - all steps",
        "32 steps, even path - all steps",
        "low-discrepancy / independent",
    ):
        row = next(line for line in printed.splitlines() if figure in line)
        value, error = (float(cell) for cell in row.split("|")[3:5])
        assert value == value and error >= 0


def test_too_few_of_either_are_refused(bits):
    with pytest.raises(ValueError, match="--samples: 3; give 4 or more"):
        bits("--samples", "3")
    with pytest.raises(ValueError, match="--levels: 32; give more than 32"):
        bits("--levels", "32")
