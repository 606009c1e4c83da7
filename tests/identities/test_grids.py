"""Sampling grids: exactly the steps asked for, strictly rising, for every count and rule."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ldm.process.grid import Spacing, TimeGrid, chosen, karras, spaced, uniform_logsnr
from ldm.process.schedule import Cosine, ScaledLinearBeta, Tabulated
from ldm.process.zero_terminal import zero_terminal

SPACINGS = get_args(Spacing)
TABLES = ["trailing", "leading", "linspace", "quadratic", "stable_diffusion"]  # rules that pick timesteps of the table
SD, SHORT = ScaledLinearBeta(), ScaledLinearBeta(steps=250)


def indices(grid, schedule=SD):
    """The timesteps of a grid, noisiest first."""
    return schedule.timesteps(grid.logsnr[:-1]).round().long().tolist()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_count_from_one_to_t_gives_exactly_that_many_steps(spacing):
    for schedule, steps in [(SHORT, n) for n in range(1, 251)] + [(SD, n) for n in (*range(1, 1000, 41), 999, 1000)]:
        grid = spaced(schedule, steps, spacing)  # a grid refuses levels that do not rise
        assert len(grid) == len(list(grid.steps())) == steps
        ends_early = spacing == "stable_diffusion" and steps < schedule.steps
        assert grid.logsnr[-1] == (pytest.approx(schedule.nodes()[1], abs=1e-12) if ends_early else math.inf)


@pytest.mark.parametrize("spacing", TABLES)
@given(st.integers(1, 60), st.data())
@example(1, None)
def test_any_table_gives_distinct_timesteps_within_range(spacing, total, data):
    schedule = Tabulated(betas=(0.01,) * total)
    steps = data.draw(st.integers(1, total)) if data else 1
    picked = indices(spaced(schedule, steps, spacing), schedule)
    assert len(set(picked)) == steps and picked == sorted(picked, reverse=True)
    assert min(picked) >= 0 and max(picked) < total
    if steps == total:
        assert picked == list(range(total))[::-1]


@pytest.mark.parametrize("spacing", [s for s in SPACINGS if s not in ("leading", "stable_diffusion")])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 999, 1000])
def test_sampling_starts_at_the_noisiest_level(spacing, steps):
    assert spaced(SD, steps, spacing).logsnr[0].item() == pytest.approx(SD.nodes()[-1], abs=1e-12)


def test_published_examples_of_the_rules():
    table = Tabulated(betas=(0.01,) * 1000)
    assert indices(spaced(table, 5, "trailing"), table) == [999, 799, 599, 399, 199]
    assert indices(spaced(table, 5, "leading"), table) == [800, 600, 400, 200, 0]
    assert indices(spaced(table, 5, "linspace"), table) == [999, 749, 500, 250, 0]
    assert indices(spaced(table, 5, "quadratic"), table) == [999, 562, 250, 62, 0]


def test_quadratic_takes_the_next_timestep_where_squares_repeat():
    table = Tabulated(betas=(0.01,) * 10)
    assert indices(spaced(table, 8, "quadratic"), table) == [9, 7, 5, 4, 3, 2, 1, 0]


def test_the_levels_of_stable_diffusion():
    grid = spaced(SD, 50, "stable_diffusion")
    assert indices(grid) == [981 - 20 * i for i in range(50)]
    assert grid.logsnr[-1].sigmoid().item() == pytest.approx(0.99915, abs=1e-12)


def test_steps_are_neighbours_of_the_path():
    grid = spaced(SD, 5, "linspace")
    pairs = list(grid.steps())
    assert [later.item() for _, later in pairs[:-1]] == [earlier.item() for earlier, _ in pairs[1:]]
    assert all(t < s for t, s in pairs)


@given(st.integers(2, 200))
def test_uniform_logsnr_has_equal_gaps_between_the_tables_ends(steps):
    levels = uniform_logsnr(SD, steps).logsnr[:-1]
    assert torch.allclose(levels.diff(), levels.diff()[:1].expand(steps - 1), rtol=1e-9, atol=1e-14)
    assert levels[[0, -1]].tolist() == pytest.approx([SD.nodes()[-1], SD.nodes()[1]], abs=1e-12)


@given(st.integers(2, 200), st.floats(1, 20))
def test_karras_has_equal_gaps_in_the_root_of_sigma(steps, rho):
    grid = karras(SD, steps, rho)
    roots = torch.exp(-grid.logsnr[:-1] / (2 * rho))
    assert torch.allclose(roots.diff(), roots.diff()[:1].expand(steps - 1), rtol=1e-7, atol=1e-14)
    assert torch.exp(-grid.logsnr[0] / 2).item() == pytest.approx(14.6146, abs=5e-5)
    assert torch.exp(-grid.logsnr[-2] / 2).item() == pytest.approx(0.029167, abs=5e-7)


def test_karras_spacing_has_the_papers_rho():
    sigmas = torch.exp(-spaced(SD, 5, "karras").logsnr[:-1] / 2)
    first, last = (SD.nodes()[i] for i in (-1, 1))
    ends = [math.exp(-level / 14) for level in (first, last)]  # sigma^(1/7)
    expected = [(ends[0] + i / 4 * (ends[1] - ends[0])) ** 7 for i in range(5)]
    assert sigmas.tolist() == pytest.approx(expected, rel=1e-12)


def test_one_step_is_the_noisiest():
    for grid in (uniform_logsnr(SD, 1), karras(SD, 1), spaced(SD, 1, "linspace")):
        assert grid.logsnr.tolist() == [pytest.approx(SD.nodes()[-1]), math.inf]


def test_zero_terminal_grids_start_at_pure_noise():
    schedule = zero_terminal(SD)
    assert spaced(schedule, 10).logsnr[0] == -math.inf
    for rule in (karras, uniform_logsnr):
        with pytest.raises(ValueError, match="zero terminal SNR"):
            rule(schedule, 10)


def test_continuous_schedules_have_a_thousand_timesteps_by_convention():
    assert len(spaced(Cosine(), 1000)) == 1000
    assert len(spaced(Cosine(steps=4000), 4000)) == 4000


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_impossible_counts_are_refused(spacing, steps):
    with pytest.raises(ValueError, match=rf"steps: {steps} is not in 1\.\.1000"):
        spaced(SD, steps, spacing)


@pytest.mark.parametrize("bad", [[], [3, 3], [5, 2], [1000], [-1]])
def test_impossible_choices_are_refused(bad):
    with pytest.raises(ValueError, match="indices"):
        chosen(SD, bad)


@pytest.mark.parametrize("levels", [[1.0], [1.0, 1.0], [2.0, 1.0], [0.0, math.nan], [-math.inf, -math.inf]])
def test_a_grid_refuses_levels_that_do_not_rise(levels):
    with pytest.raises(ValueError, match="logsnr"):
        TimeGrid(torch.tensor(levels, dtype=torch.float64))


def test_a_grid_refuses_single_precision():
    with pytest.raises(ValueError, match="float32"):
        TimeGrid(torch.tensor([0.0, 1.0]))
