"""Held to a small picture, a large one shows it again when it is made small."""

import torch

from ldm.codec import IdentityCodec
from ldm.core.images import interpolated, resized
from ldm.inference.lowres import held_to, low_latent, low_versions
from ldm.nets.low import LowSpec

LEVEL = 2 / 255  # one 8-bit level of a picture in [-1, 1]


def smooth(side: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.9 * resized(torch.rand(2, 3, side // 4, side // 4, generator=generator) * 2 - 1, side, side)


def test_a_picture_held_to_a_small_one_is_that_one_when_it_is_made_small():
    small, other = smooth(32, 0), smooth(64, 1)
    shrunk = resized(held_to(other, small), 32, 32)
    assert (resized(other, 32, 32) - small).abs().max() > 50 * LEVEL
    assert (shrunk - small).abs().mean() < LEVEL / 2


def test_what_the_small_picture_cannot_show_stays():
    image = smooth(64, 0)
    grain = 0.05 * (torch.arange(64) % 2 * 2 - 1.0) * torch.ones(2, 3, 64, 64)  # of the highest frequency
    held = held_to(image + grain, interpolated(image, 32, 32))
    inside = (..., slice(8, -8), slice(8, -8))  # at a border the grain has no neighbour to cancel it
    torch.testing.assert_close((held - image)[inside], grain[inside], atol=1e-3, rtol=0)


def test_the_picture_itself_is_left_as_it_is():
    image = smooth(64, 0)
    torch.testing.assert_close(held_to(image, interpolated(image, 32, 32)), image)


def test_there_is_a_version_of_every_picture_for_each_factor():
    image, codec = smooth(32, 0), IdentityCodec()
    versions = low_versions(codec, image, LowSpec(factors=(2, 4), redrawn=(2,)))
    assert versions.shape == (2, 3, 3, 32, 32)
    for i, factor in enumerate((2, 4)):
        assert torch.equal(versions[:, i], low_latent(codec, resized(image, 32 // factor, 32 // factor), 32, 32))
    assert torch.equal(versions[:, 2], versions[:, 0])  # the identity redraws a picture as it is
