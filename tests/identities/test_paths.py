"""Paths of least cost: against every path there is, and against the rules of thumb."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.process.paths import Path, even, optimal_path, optimal_paths, path_along, quadratic


def random_table(nodes, seed):
    """Costs of steps between `nodes` + 1 nodes; what is not below the diagonal is rubbish that must not be read."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(nodes + 1, nodes + 1, dtype=torch.float64, generator=generator).exp()
    return table.masked_fill(torch.ones(nodes + 1, nodes + 1, dtype=torch.bool).triu(), math.nan)


def convex_table(nodes):
    """Steps whose cost grows with the square of their length: what a smooth bound looks like."""
    position = torch.arange(nodes + 1, dtype=torch.float64) / nodes
    return (position[:, None] - position).clamp(min=0) ** 2 * (1 + position)


def cheapest_by_force(table, steps):
    last = len(table) - 1
    paths = [(*inner, last) for inner in combinations(range(1, last), steps - 1)]
    return min((path_along(table, path) for path in paths), key=lambda path: path.nats)


@given(st.integers(1, 9), st.integers(0, 10**6))
def test_for_every_number_of_steps_it_is_the_cheapest_of_all_paths(nodes, seed):
    table = random_table(nodes, seed)
    found = optimal_paths(table, nodes)
    assert [len(path) for path in found] == list(range(1, nodes + 1))
    for path in found:
        best = cheapest_by_force(table, len(path))
        assert path.indices == best.indices and path.indices[-1] == nodes
        assert path.nats == pytest.approx(best.nats, rel=1e-12)


@given(st.integers(2, 30), st.integers(0, 10**6))
def test_no_rule_of_thumb_is_cheaper(nodes, seed):
    table = random_table(nodes, seed)
    for path in optimal_paths(table, nodes):
        for rule in (even, quadratic):
            chosen = path_along(table, rule(nodes, len(path)))
            assert len(chosen) == len(path) and chosen.indices[-1] == nodes
            assert path.nats <= chosen.nats * (1 + 1e-12)
        assert path.nats == pytest.approx(path_along(table, path.indices).nats, rel=1e-12)


@given(st.integers(1, 60), st.integers(0, 10**6))
def test_all_steps_are_the_full_sum_and_one_step_is_one_entry(nodes, seed):
    table = random_table(nodes, seed)
    full, single = optimal_path(table, nodes), optimal_path(table, 1)
    assert full.indices == tuple(range(1, nodes + 1))
    assert full.nats == pytest.approx(table.diagonal(-1).sum().item(), rel=1e-12)
    assert single == Path((nodes,), table[nodes, 0].item())


def test_on_a_smooth_table_more_steps_are_cheaper_and_the_best_of_four_are_even_where_cost_is_even():
    nats = [path.nats for path in optimal_paths(convex_table(24), 24)]
    assert nats == sorted(nats, reverse=True)
    position = torch.arange(25, dtype=torch.float64)
    assert optimal_path((position[:, None] - position) ** 2, 4).indices == even(24, 4) == (6, 12, 18, 24)


def test_a_forbidden_step_is_not_taken():
    table = convex_table(6)
    table[6, 3] = math.inf
    assert optimal_path(convex_table(6), 2).indices == (3, 6)
    assert optimal_path(table, 2).indices in {(2, 6), (4, 6)}
    table[6, :] = math.inf
    with pytest.raises(ValueError, match="no path of 1 steps"):
        optimal_path(table, 1)


@pytest.mark.parametrize("last", [1, 7, 50])
def test_rules_of_thumb_never_repeat_a_node(last):
    for steps in range(1, last + 1):
        for rule in (even, quadratic):
            assert Path(rule(last, steps), 0.0).indices[-1] == last


@pytest.mark.parametrize(
    ("indices", "message"),
    [((), "at least one"), ((0, 3), "none below 1"), ((2, 2, 5), "2 is repeated"), ((4, 2), "2 comes after 4")],
)
def test_a_path_refuses_repeated_or_unsorted_steps(indices, message):
    with pytest.raises(ValueError, match=message):
        Path(indices, 0.0)


def test_bad_tables_and_step_counts_are_refused():
    with pytest.raises(ValueError, match=r"steps: 8 is not in 1\.\.7"):
        optimal_path(convex_table(7), 8)
    with pytest.raises(ValueError, match="steps: 0"):
        optimal_path(convex_table(7), 0)
    with pytest.raises(ValueError, match="nan"):
        optimal_path(torch.full((3, 3), math.nan, dtype=torch.float64), 1)
    with pytest.raises(ValueError, match="1 x 1"):
        optimal_path(torch.zeros(1, 1, dtype=torch.float64), 1)
    with pytest.raises(ValueError, match="outside the table"):
        path_along(convex_table(7), (3, 9))
