"""The low-resolution condition: what the network sees, and what the diffusion works on instead of the latent."""

import pytest
import torch

from ldm.nets.cond import Cond
from ldm.nets.low import LowSpec, noised, version

SPEC = LowSpec(noise=0.5, scale=0.4)


def latents(*seeds: int) -> list[torch.Tensor]:
    shape = (3, 4, 2, 2)
    return [torch.randn(shape, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]


def test_the_correction_of_a_latent_restores_it():
    latent, x0, z = latents(0, 1, 2)
    low = noised(latent, torch.tensor([0.0, 0.2, 0.5]).double(), z, SPEC)
    torch.testing.assert_close(low.corrected(low.correction(x0)), x0)


def test_no_correction_is_the_enlarged_picture_itself():
    latent, z = latents(0, 2)
    low = noised(latent, torch.zeros(3).double(), z, SPEC)
    assert torch.equal(low.corrected(torch.zeros_like(latent)), latent)


def test_noise_has_the_level_that_the_network_is_told():
    level = torch.tensor([0.0, 0.25, 0.5])
    z = torch.randn(3, 4, 50, 50, generator=torch.Generator().manual_seed(0))
    channels = noised(torch.zeros(3, 4, 50, 50), level, z, SPEC).into(Cond(torch.zeros(3, 1, 8))).channels
    assert channels.shape == (3, 5, 50, 50)
    assert torch.equal(channels[:, 4], level[:, None, None].expand(3, 50, 50))
    torch.testing.assert_close(channels[:, :4].flatten(1).std(1), level, rtol=0.03, atol=0)


def test_each_version_is_chosen_by_its_part_of_the_unit_interval():
    low = torch.arange(3.0).reshape(1, 3, 1, 1, 1).expand(4, 3, 1, 1, 1)
    assert version(low, torch.tensor([0.0, 0.34, 0.67, 0.9999])).flatten().tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "wrong", [{"factors": ()}, {"factors": (1,)}, {"factors": (9,)}, {"redrawn": (0,)}, {"noise": -0.1}, {"scale": 0.0}]
)
def test_impossible_specs_are_refused(wrong):
    with pytest.raises(ValueError, match="low: "):
        LowSpec(**wrong)
