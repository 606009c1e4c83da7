"""A cache that is filled along: only what is needed is encoded, once, in an order that nothing else decides."""

import pickle
import threading
import time
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_latents import Counted, make
from torch.utils.data import DataLoader

from ldm.core.distributed import LostProcessError, World
from ldm.data import along, parts
from ldm.data.along import AsNeeded, GrowingCache
from ldm.data.buckets import BucketOrder
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.latents import LatentCache, collated
from ldm.data.position import Batches, ResumableSampler, through_parts

ROWS, PICTURES, BATCH = 4, 40, 4


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(parts, "ROWS", ROWS)
    monkeypatch.setattr(along, "ROWS", ROWS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("along") / "pictures", [(8, 8)] * PICTURES)


def growing(root, directory, counted=None, views=1, timeout=5.0, **spec):
    folder = ImageFolder(FolderSpec(path=str(root), **{"size": 8, **spec}))
    encoders = (counted or Counted()).encoders()
    return GrowingCache(folder, encoders, views=views, directory=directory, seed=0, timeout=timeout)


def order_of(cache):
    if cache.mixed:
        return BucketOrder(cache.shapes(), 0, batch=BATCH, parts=cache.parts.rows)
    return Batches(ResumableSampler(len(cache), 0, parts=cache.parts.rows), BATCH)


def batches(cache, steps, start=0, here=None):
    """The first batches after `start` as a run gets them, and the items that they are made of."""
    needed = AsNeeded(cache, order_of(cache), start, here or World())
    loader = iter(DataLoader(cache, batch_sampler=needed, collate_fn=collated))
    return list(islice(loader, steps))


def made(cache):
    return len(list(cache.folder.glob("shard-*")))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), window=st.integers(1, 6), seed=st.integers(0, 2**40))
def test_an_epoch_goes_through_the_parts_in_turn(sizes, window, seed):
    order = through_parts(sizes, torch.Generator().manual_seed(seed), window)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    part_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    turns = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))[part_of][order]
    latest = turns.cummax(0).values
    assert (turns > latest - window).all()  # once turn k has come, none of k - window or before is left


def test_only_the_first_epoch_goes_through_parts_and_all_are_permutations():
    order, plain = ResumableSampler(12, 3, parts=[4, 8]), ResumableSampler(12, 3)
    epochs = [[s.index(p) for p in range(12 * e, 12 * e + 12)] for s in (order, plain) for e in (0, 1)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[1] == epochs[3] and epochs[0] != epochs[2]
    with pytest.raises(ValueError, match="parts: they have 5 items together, not 12"):
        ResumableSampler(12, 3, parts=[4, 1])


def test_little_is_encoded_before_the_first_batch(root, tmp_path):
    counted = Counted()
    cache = growing(root, tmp_path, counted)
    assert len(cache) == PICTURES and counted.seen == 0
    batches(cache, 1)
    assert 0 < counted.seen <= 4 * ROWS + 3 * BATCH  # the parts of this batch and of the two that are prepared ahead


def test_after_an_epoch_it_is_the_cache_that_is_made_ahead(root, tmp_path):
    counted = Counted()
    grown = growing(root, tmp_path / "along", counted, views=2)
    batches(grown, 2 * PICTURES // BATCH)
    assert counted.seen == 2 * PICTURES  # each once
    folder = ImageFolder(FolderSpec(path=str(root), size=8))
    again = LatentCache(folder, counted.encoders(), views=2, directory=tmp_path / "along", seed=0)
    assert counted.seen == 2 * PICTURES and again.folder == grown.folder and len(again) == len(grown)
    ahead = LatentCache(folder, Counted().encoders(), views=2, directory=tmp_path / "ahead", seed=0)
    for path in sorted(ahead.folder.glob("shard-*")):
        ours, theirs = load_file(grown.folder / path.name), load_file(path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for i in (0, 17, 2 * PICTURES - 1):
        assert all(torch.equal(tensor, ahead[i][name]) for name, tensor in grown[i].items())


@pytest.mark.parametrize("start", [0, 3, 12])
def test_batches_do_not_depend_on_what_is_there_nor_on_where_a_run_goes_on(root, tmp_path, start):
    whole = batches(growing(root, tmp_path / "a"), start + 6)[start:]
    partly = growing(root, tmp_path / "b")
    batches(partly, 2)
    assert 0 < made(partly) < PICTURES // ROWS
    for found in (batches(partly, 6, start), batches(growing(root, tmp_path / "c"), 6, start)):
        for ours, theirs in zip(found, whole, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_workers_read_what_this_process_makes(root, tmp_path):
    cache, counted = growing(root, tmp_path / "a"), Counted()
    working = growing(root, tmp_path / "b", counted)
    needed = AsNeeded(working, order_of(working), 0, World())
    loader = iter(DataLoader(working, batch_sampler=needed, collate_fn=collated, num_workers=2))
    for ours, theirs in zip(islice(loader, 6), batches(cache, 6), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert counted.seen  # here, and not in a worker


def test_workers_that_are_spawned_read_too(root, tmp_path):
    cache, words = growing(root, tmp_path), ["encoders", "are often closures"]

    def text(captions):
        return {"tokens": torch.full((len(captions), 2), len(words))}

    cache._encoders = replace(cache._encoders, text=text)  # nothing that goes to another process
    whole = batches(cache, PICTURES // BATCH)
    copy = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 100_000  # none of the shards that are open here
    assert all(torch.equal(tensor, cache[3][name]) for name, tensor in copy[3].items())
    needed = AsNeeded(cache, order_of(cache), 0, World())
    options = {"num_workers": 1, "multiprocessing_context": "spawn"}
    loader = iter(DataLoader(cache, batch_sampler=needed, collate_fn=collated, **options))
    for ours, theirs in zip(islice(loader, 2), whole, strict=False):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_cut_shard_is_made_again(root, tmp_path):
    cache = growing(root, tmp_path)
    batches(cache, PICTURES // BATCH)
    shard = cache.folder / "shard-000002.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(shard).items()}
    shard.write_bytes(shard.read_bytes()[:-10])
    counted = Counted()
    batches(growing(root, tmp_path, counted), PICTURES // BATCH)
    assert counted.seen == ROWS and all(torch.equal(t, whole[name]) for name, t in load_file(shard).items())


def test_processes_share_the_shards_and_make_none_twice(root, tmp_path):
    counts, found = [Counted(), Counted()], [[], []]

    def run(rank):
        cache = growing(root, tmp_path / "two", counts[rank])
        found[rank] = batches(cache, PICTURES // BATCH, here=World(rank, 2))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [counted.seen for counted in counts] == [PICTURES // 2] * 2
    alone = batches(growing(root, tmp_path / "one"), PICTURES // BATCH)
    for first, second, whole in zip(*found, alone, strict=True):
        assert torch.equal(torch.stack([first["mean"], second["mean"]], 1).flatten(0, 1), whole["mean"])


def test_a_shard_that_another_process_does_not_make_is_waited_for_and_then_named(root, tmp_path):
    cache = growing(root, tmp_path, timeout=0.3)
    with pytest.raises(LostProcessError, match=r"process 0 of 2: .* did not make .*shard-0000.* in 0.3 s"):
        batches(cache, PICTURES // BATCH, here=World(0, 2))


def test_who_waits_can_be_told_not_to(root, tmp_path):
    cache = growing(root, tmp_path, timeout=60.0)
    needed = AsNeeded(cache, order_of(cache), 0, World(0, 2))
    threading.Timer(0.5, needed.cancel).start()
    began = time.monotonic()
    assert len(list(needed)) < PICTURES and time.monotonic() - began < 30


def test_what_goes_wrong_in_an_encoder_is_raised_where_the_batch_is_wanted(root, tmp_path):
    class Broken(Counted):
        def image(self, x):
            found = super().image(x)
            found.mean[:] = torch.nan
            return found

    with pytest.raises(ValueError, match="'mean' has values that are not finite in half precision"):
        batches(growing(root, tmp_path, Broken()), 1)


def test_pictures_that_cannot_be_read_are_named_once_and_others_shown(tmp_path, caplog):
    root = make(tmp_path / "pictures", [(8, 8)] * 100)
    damaged = [7, 60, 61, 62, 63]  # one of its part, and a whole part
    for i in damaged:
        (root / f"{i:02}.png").write_text("no picture")
    cache = growing(root, tmp_path / "cache")
    seen = torch.cat([batch["picture"] for batch in batches(cache, 2 * 100 // BATCH)])
    assert len(seen) == 200 and set(seen.tolist()) == set(range(100)) - set(damaged)
    named = [message for message in caplog.messages if message.startswith("left out: ")]
    assert len(named) == len(damaged) == len(set(named))


def test_too_many_that_cannot_be_read_are_refused(tmp_path):
    root = make(tmp_path / "pictures", [(8, 8)] * PICTURES)
    for i in range(0, PICTURES, 5):
        (root / f"{i:02}.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"png: the picture cannot be read.* 4 more.* too many of 40"):
        batches(growing(root, tmp_path / "cache"), PICTURES // BATCH)


def test_buckets_come_in_batches_of_one_shape(tmp_path):
    sizes = [(16, 16), (16, 32), (32, 16), (16, 30), (20, 20), (16, 16)] * 4
    root = make(tmp_path / "pictures", sizes)
    cache = growing(root, tmp_path / "cache", size=16, unit=4)
    assert cache.mixed
    found = batches(cache, 2 * len(sizes) // BATCH)
    assert len({batch["mean"].shape for batch in found}) > 1
    assert set(torch.cat([batch["picture"] for batch in found]).tolist()) == set(range(len(sizes)))
