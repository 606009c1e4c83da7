"""The tables that lie beside a model: kept as they were, used for a grid, refused for another model."""

import json
import math
from dataclasses import replace

import pytest

from ldm.evaluation.paths import nodes_of
from ldm.process.schedule import LinearBeta
from ldm.process.variance import AnalyticVariance
from ldm.samplers.tuned import Tuned, load_tuned, save_tuned


def tables(model):
    schedule = LinearBeta(steps=10)
    timesteps = (1, 4, 9)
    levels = tuple(nodes_of(schedule, timesteps).tolist())
    variance = AnalyticVariance(logsnr=levels, gamma=(0.9, 0.5, 0.1), model=model)
    return Tuned(variance=variance, timesteps=timesteps, paths=((9,), (4, 9)), nats=(3.0, 2.0), pictures=8)


def test_tables_come_back_as_they_were_and_give_the_grid_of_their_path(tmp_path):
    save_tuned(tmp_path, tables("abc"))
    tuned, schedule = load_tuned(tmp_path, "abc"), LinearBeta(steps=10)
    assert tuned == tables("abc")
    grid = tuned.grid(schedule, 2)
    assert grid.logsnr.tolist() == [schedule.nodes()[10], schedule.nodes()[5], math.inf]
    tuned.variance.check(grid)
    assert replace(tuned, ode=((9,), (1, 9))).grid(schedule, 2, "tuned_ode").logsnr[1].item() == schedule.nodes()[2]
    with pytest.raises(ValueError, match=r"steps: 3 is not in 1\.\.2"):
        tuned.grid(schedule, 3)
    with pytest.raises(ValueError, match="no paths for 'tuned_ode'; run scripts/tune_sampler.py again"):
        tuned.grid(schedule, 1, "tuned_ode")


def test_tables_of_another_model_or_damaged_ones_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file; run scripts/tune_sampler.py"):
        load_tuned(tmp_path, "abc")
    path = save_tuned(tmp_path, tables("abc"))
    whole = json.loads(path.read_text())
    for text, message in (
        (path.read_text(), "measured on model abc, but this is xyz"),
        (path.read_text()[:40], "not tables of this version"),
        (json.dumps(whole | {"format": "other"}), "another format"),
        (json.dumps(whole | {"paths": [[9], [9, 4]]}), r"paths\[1\]: \(9, 4\) are not rising"),
        (json.dumps(whole | {"paths": [[9], [4, 8]]}), "not 2 of the measured"),
        (json.dumps(whole | {"ode": [[9, 9]]}), r"ode\[0\]: \(9, 9\) are not rising"),
        (json.dumps(whole | {"nats": [3.0]}), "nats: 1 for 2 paths"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as refused:
            load_tuned(tmp_path, "xyz")
        assert "\n" not in str(refused.value)
