import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.nets.embeddings import VectorMLP, sinusoids


def test_zero_is_all_cosine():
    out = sinusoids(torch.zeros(3), 10)
    assert torch.equal(out, torch.cat([torch.ones(3, 5), torch.zeros(3, 5)], dim=1))


def test_first_frequency_is_one_and_the_next_is_geometric():
    v = torch.tensor([0.0, 1.0, 999.0])
    out = sinusoids(v, 4, max_period=100.0).double()  # frequencies 1 and 1 / 10
    expected = torch.stack([v.cos(), (v / 10).cos(), v.sin(), (v / 10).sin()], dim=1).double()
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.floats(-1000, 1000), st.sampled_from([2, 8, 64]))
def test_every_frequency_is_a_point_on_the_circle(value, dim):
    cos, sin = sinusoids(torch.tensor([value]), dim).chunk(2, dim=1)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones(1, dim // 2))


def test_neighbouring_steps_stay_apart_in_a_half_precision_network():
    net = VectorMLP(64, 64).to(torch.bfloat16)
    steps = sinusoids(torch.arange(1000.0), 64)
    assert steps.dtype == torch.float32 and net(steps).dtype == torch.bfloat16
    assert (steps[1:] - steps[:-1]).norm(dim=1).min() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_the_level_does_not_change_the_embedding(dtype):
    torch.testing.assert_close(sinusoids(torch.tensor([math.e], dtype=dtype), 8), sinusoids(torch.tensor([math.e]), 8))
