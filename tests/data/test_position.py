"""Order is a pure function of (seed, position): resuming, processes and workers change nothing."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from ldm.data.position import WINDOW, Draw, DrawSampler, ResumableSampler


def take(iterable, count):
    return list(islice(iterable, count))


@given(n=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_epoch_is_a_permutation(n, seed, epoch):
    assert sorted(take(ResumableSampler(n, seed, epoch * n), n)) == list(range(n))


@given(n=st.integers(1, 30), seed=st.integers(0, 2**40), start=st.integers(0, 200))
def test_resuming_continues_the_same_order(n, seed, start):
    whole = take(ResumableSampler(n, seed), start + 50)
    assert take(ResumableSampler(n, seed, start), 50) == whole[start:]


@given(n=st.integers(1, 30), world=st.integers(1, 5), start=st.integers(0, 60))
def test_processes_share_the_order_without_overlap(n, world, start):
    parts = [take(ResumableSampler(n, 3, start, rank=rank, world=world), 12) for rank in range(world)]
    merged = [index for group in zip(*parts, strict=True) for index in group]
    assert merged == take(ResumableSampler(n, 3, start), 12 * world)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), start=st.integers(0, 300), epoch=st.integers(0, 3))
def test_every_epoch_may_go_through_the_parts_and_goes_on_as_it_was(sizes, start, epoch):
    n = sum(sizes)
    whole = take(ResumableSampler(n, 3, parts=sizes, always=True), start + 50)
    assert take(ResumableSampler(n, 3, start, parts=sizes, always=True), 50) == whole[start:]
    order = take(ResumableSampler(n, 3, epoch * n, parts=sizes, always=True), n)
    assert sorted(order) == list(range(n))
    part_of = [part for part, rows in enumerate(sizes) for _ in range(rows)]
    first = {part: place for place, part in reversed(list(enumerate(part_of[i] for i in order)))}
    last = {part: place for place, part in enumerate(part_of[i] for i in order)}
    assert all(sum(first[p] <= place <= last[p] for p in first) <= WINDOW + 1 for place in range(n))


def test_epochs_and_seeds_differ():
    first, second = take(ResumableSampler(100, 0), 100), take(ResumableSampler(100, 0, 100), 100)
    assert first != second and first != take(ResumableSampler(100, 1), 100)


def test_draws_follow_the_order_with_fresh_seeds():
    order = ResumableSampler(10, 5, 7)
    draws = take(DrawSampler(order), 40)
    assert [draw.index for draw in draws] == take(order, 40)
    assert len({draw.seed for draw in draws}) == 40
    assert take(DrawSampler(ResumableSampler(10, 5, 20)), 5) == draws[13:18]


class Keys(Dataset):
    def __getitem__(self, key: Draw) -> torch.Tensor:
        return torch.tensor([key.index, key.seed])


def test_a_loader_with_workers_keeps_the_order():
    sampler = DrawSampler(ResumableSampler(9, 1))
    plain = torch.cat(take(DataLoader(Keys(), 4, sampler=sampler), 5))
    workers = torch.cat(take(DataLoader(Keys(), 4, sampler=sampler, num_workers=2), 5))
    assert torch.equal(plain, workers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: 0 pictures"),
        ({"start": -1}, "start: -1 is negative"),
        ({"rank": 2, "world": 2}, "rank: 2 is outside 0 to 1"),
        ({"rank": -1}, "rank: -1"),
    ],
)
def test_refuses_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ResumableSampler(**{"n": 3, "seed": 0, **options})


@given(n=st.integers(1, 30), worlds=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=5))
def test_each_picture_is_seen_once_an_epoch_whatever_the_processes(n, worlds):
    batch, seen = 12, []
    for world in worlds:  # each goes on where the former ended, for a few steps
        parts = [take(ResumableSampler(n, 3, len(seen), rank=r, world=world), 2 * batch // world) for r in range(world)]
        seen += [index for group in zip(*parts, strict=True) for index in group]
    for epoch in range(len(seen) // n):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
