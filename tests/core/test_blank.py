"""Networks built without drawing weights: the same shapes and buffers, and no number drawn."""

import torch
from torch import nn

from ldm.core.blank import blank


def test_no_weight_is_drawn_and_nothing_else_changes():
    torch.manual_seed(0)
    with blank():
        net = nn.Sequential(nn.Linear(3, 5), nn.Conv2d(2, 4, 3), nn.Embedding(7, 2), nn.MultiheadAttention(8, 2))
        nn.init.trunc_normal_(net[0].weight)
        norm = nn.BatchNorm1d(3)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert [tuple(p.shape) for p in net[:3].parameters()] == [(5, 3), (5,), (4, 2, 3, 3), (4,), (7, 2)]
    assert torch.equal(norm.running_var, torch.ones(3)) and torch.equal(norm.weight, torch.ones(3))


def test_outside_of_the_block_weights_are_drawn():
    with blank():
        pass
    assert nn.Linear(3, 5).weight.abs().sum() > 0
