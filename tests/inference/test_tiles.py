"""Cut into overlapping rectangles and joined again, a picture is itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.inference.tiles import tiling

SIDES = st.integers(1, 70)


@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, factor=st.sampled_from([1, 2, 3]))
def test_joined_tiles_are_the_enlarged_picture(height, width, factor):
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    tiles = tiling(height, width, largest=16, unit=4)
    cut = tiles.cut(image)
    assert cut.shape == (2 * len(tiles), 3, *tiles.tile)
    assert all(side % 4 == 0 and side <= 16 for side in tiles.tile)
    enlarged = cut.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    wanted = image.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    torch.testing.assert_close(tiles.join(enlarged, factor), wanted)


@given(side=st.integers(17, 400))
def test_neighbours_overlap_by_a_quarter_and_the_ends_are_those_of_the_picture(side):
    starts = tiling(side, 16, largest=16, unit=4).tops
    assert starts[0] == 0 and starts[-1] == side - 16
    assert all(0 < b - a <= 12 for a, b in zip(starts, starts[1:], strict=False))


def test_where_tiles_disagree_the_result_goes_over_from_one_to_the_other():
    tiles = tiling(28, 16, largest=16, unit=4)
    joined = tiles.join(torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)]), 1)[0, 0, :, 0]
    assert joined[:12].tolist() == [0] * 12 and joined[16:].tolist() == [1] * 12
    assert joined[12:16].tolist() == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])
