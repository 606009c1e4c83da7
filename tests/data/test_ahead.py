"""Batches made ahead are the same batches, and so are the faults."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.data.ahead import Ahead


@given(items=st.lists(st.integers()), batches=st.integers(1, 4))
def test_the_order_is_the_loader_s(items, batches):
    ahead = Ahead(items, batches)
    assert list(ahead) == items == list(ahead)


def test_a_fault_is_raised_after_what_came_before_it():
    def broken():
        yield 1
        raise ValueError("shard 7 is damaged")

    found = iter(Ahead(broken()))
    assert next(found) == 1
    with pytest.raises(ValueError, match="shard 7"):
        next(found)


def test_no_thread_is_left_behind_by_an_endless_loader():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    batches = iter(Ahead(endless()))
    assert next(batches) == 0 and threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
