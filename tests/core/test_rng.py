"""Random numbers: a seed means the same picture in any process and in any batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.rng import NoiseStream, fold

SEEDS = [3, 0, fold(1, "image", 2), 2**63 - 1]


def test_fold_is_the_same_in_every_process():
    assert fold(0, "train", 5, 3) == 7625624202119415288  # Python's own hash() of a text would change


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99)), unique=True, max_size=20))
def test_fold_tells_paths_apart(paths):
    folded = {fold(seed, "step", step, image) for seed, step, image in paths}
    assert len(folded) == len(paths) and all(0 <= value < 2**63 for value in folded)


@pytest.mark.parametrize("draw", [NoiseStream.normal, NoiseStream.uniform])
def test_a_row_does_not_depend_on_the_batch(draw):
    together = NoiseStream(SEEDS)
    for shape in ((3, 2), (5,), (1, 4, 4)):  # also after earlier draws
        batch = draw(together, (len(SEEDS), *shape))
        assert batch.shape == (len(SEEDS), *shape)
    for i, seed in enumerate(SEEDS):
        alone = NoiseStream([seed])
        for shape in ((3, 2), (5,), (1, 4, 4)):
            row = draw(alone, (1, *shape))
        assert torch.equal(row[0], batch[i])


def test_restore_continues_exactly_and_in_another_stream():
    noise = NoiseStream(SEEDS)
    noise.normal((4, 7))
    state = noise.state()
    expected = noise.normal((4, 3, 5)), noise.uniform((4, 2))
    other = NoiseStream([0] * 4)
    for stream in (noise, other):
        stream.restore(state)
        assert torch.equal(stream.normal((4, 3, 5)), expected[0])
        assert torch.equal(stream.uniform((4, 2)), expected[1])


def test_like_changes_the_type_and_not_the_numbers():
    plain = NoiseStream(SEEDS).normal((4, 6))
    assert torch.equal(NoiseStream(SEEDS).normal((4, 6), like=torch.zeros(1).bfloat16()), plain.bfloat16())


def test_one_seed_for_each_image():
    with pytest.raises(ValueError, match="3 images asked of 2 streams"):
        NoiseStream([1, 2]).normal((3, 4))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_row_of_a_batch_draws_the_same_whoever_holds_it(size):
    def drawn(rank, size):
        noise, b = NoiseStream.of_batch(7, rank, size), 6 // size
        first, second = noise.normal((1, b, 4, 2))[0], noise.normal((1, b, 3))[0]
        times = noise.jointly(b, lambda n, whole: (whole.uniform((1, 1))[0] + torch.arange(n) / n) % 1)
        return first, second, noise.uniform((1, b))[0], times

    whole = drawn(0, 1)
    for rank in range(size):
        for mine, all_rows in zip(drawn(rank, size), whole, strict=True):
            assert torch.equal(mine, all_rows[rank::size])
    assert len({tuple(row.flatten().tolist()) for row in whole[0]}) == 6
    assert whole[3].sort().values.diff().sub(1 / 6).abs().max() < 1e-6
