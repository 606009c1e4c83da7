"""The benchmarks run, and fail in one line."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldm.evaluation.paths import nodes_of
from ldm.process.schedule import LinearLogSNR

ROOT = Path(__file__).parents[2]


def benchmark(name: str) -> dict:
    return runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))


def test_training_prints_all_and_their_ratios(monkeypatch, capsys):
    configs = [
        "--config",
        str(ROOT / "configs/smoke/ldm.yaml"),
        "--autoencoder",
        str(ROOT / "configs/smoke/autoencoder.yaml"),
    ]
    monkeypatch.setattr(sys, "argv", ["training.py", *configs, "--steps", "1", "--batch", "2"])
    benchmark("training")["main"]()
    printed = capsys.readouterr().out
    ours, plain, cached = (float(x) for x in re.findall(r"(?:ours|plain|cached): +([\d.]+) ms", printed))
    ratios = [float(x) for x in re.findall(r"([\d.]+) to the plain loop", printed)]
    assert ratios == pytest.approx([plain / ours, cached / ours], rel=0.05)


def test_both_loops_start_from_the_same_loss():
    """Same network, same batch: a new network returns 0, so both losses are that of predicting nothing."""
    made = benchmark("training")
    config = made["load"](ROOT / "configs/smoke/ldm.yaml", made["RunConfig"])
    batch = made["random_batch"](config, 2, 16, 4)
    kind, scaling = config.prediction.kind, config.prediction.scaling
    contiguous = made["NetDenoiser"](made["UNet"](config.net), kind, scaling, config.schedule.timesteps)
    losses = [made["loss_of"](config, net, batch).item() for net in (made["build_denoiser"](config), contiguous)]
    assert losses[0] == losses[1] > 0


def test_calls_alternate_and_the_first_of_each_is_not_counted():
    calls = []
    counted = benchmark("training")["interleaved"]([lambda: calls.append(1), lambda: calls.append(2)], 3)
    assert calls == [1, 2] * 4 and [len(times) for times in counted] == [3, 3]


def test_the_operations_of_docs_scaling_are_those_of_stable_diffusion():
    made = benchmark("throughput")
    assert made["counted"](replace(made["SHAPE"], channels=320), 1, 64) == pytest.approx(0.803e12, rel=1e-3)


def test_cold_start_measures_a_process_of_its_own():
    seconds, megabytes = benchmark("cold_start")["once"]("--help")
    assert 0 < seconds < 30 and megabytes > 5


def test_cold_start_reports_why_the_script_failed():
    with pytest.raises(ValueError, match="txt2img.py ended with 2: error: nowhere"):
        benchmark("cold_start")["once"]("--model", "nowhere", "--prompt", "a cat", "--out", "/tmp")


def test_bits_knows_a_rate_from_a_ratio():
    """A ratio of equal shares has no error; one that varies from picture to picture has."""
    made = benchmark("bits")
    a, b = torch.tensor([1.0, 2.0, 3.0, 2.0]), torch.tensor([2.0, 4.0, 6.0, 4.0])
    row = made["ratio_row"]("half", a, b)
    assert row.value == pytest.approx(0.5) and row.error == pytest.approx(0.0, abs=1e-7)
    wider = made["ratio_row"]("half", a, b + torch.tensor([0.5, -0.5, 0.5, -0.5]))
    assert wider.error > 0.01


def test_low_discrepancy_times_are_judged_by_the_continuous_bound_of_known_errors():
    """Data N(0, c): |x_0 - x0_hat|^2 averages c / (1 + c SNR), whose bound is 1/2 log of a ratio of totals."""
    made, c = benchmark("bits"), 0.3
    schedule = LinearLogSNR(
        logsnr_min=-8.0, logsnr_max=8.0, steps=10_000
    )  # smooth; the sum over levels is off by O(1 / steps)
    levels = nodes_of(schedule, range(schedule.steps))
    errors = (c / (1 + c * levels.exp())).expand(3, -1)
    weighted = made["integrand"](errors, levels, schedule)
    ends = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64)).exp()
    truth = 0.5 * ((1 + c * ends[0]) / (1 + c * ends[1])).log()
    assert weighted.mean().item() == pytest.approx(truth.item(), rel=2e-3)
    made["times_rows"].__globals__["BATCHES"] = 200
    (row,) = made["times_rows"](errors, levels, schedule, 0)
    assert row.value < 0.05  # all pictures alike and a smooth integrand: hardly any variance is left
