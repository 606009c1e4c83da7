"""From a network to a denoiser: the parameterisation, its scaling, and the precision of levels."""

import pytest
import torch
from torch import nn

from ldm.denoiser import Denoised, NetDenoiser, bind
from ldm.nets.cond import Cond
from ldm.process.conditionals import q_sample
from ldm.process.prediction import EDM, VP, target
from ldm.process.schedule import ScaledLinearBeta

LEVELS = torch.tensor([-4.0, 0.3, 7.0], dtype=torch.float64)
COND = Cond(torch.zeros(3, 1, 2))


class Fixed(nn.Module):
    """A network that knows the answer, and remembers what it was shown."""

    def __init__(self, out):
        super().__init__()
        self.out, self.seen = out, None

    def forward(self, x, c_noise, cond):
        self.seen = (x, c_noise, cond)
        return self.out


@pytest.fixture
def pair():
    return torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["eps", "x0", "score", "v"])
def test_a_perfect_network_of_every_kind_gives_the_clean_latent(kind, pair):
    x0, eps = pair
    net = Fixed(target(kind, x0, eps, LEVELS))
    x_t = q_sample(x0, eps, LEVELS)
    found = NetDenoiser(net, kind, VP(), lambda logsnr: -logsnr)(x_t, LEVELS, COND)
    torch.testing.assert_close(found.x0, x0)
    assert torch.equal(net.seen[0], x_t) and torch.equal(net.seen[1], -LEVELS) and net.seen[2] is COND


def test_edm_scaling_asks_the_network_for_minus_v_of_unit_variance_data(pair):
    x0, eps = pair
    net = Fixed(-target("v", x0, eps, LEVELS))
    denoise = NetDenoiser(net, "x0", EDM(sigma_data=1.0), lambda logsnr: logsnr)
    torch.testing.assert_close(denoise(q_sample(x0, eps, LEVELS), LEVELS, COND).x0, x0)


def test_scaling_wraps_the_network_on_both_sides(pair):
    x0, eps = pair
    scaling, x_t = EDM(sigma_data=0.5), q_sample(x0, eps, LEVELS)
    c_in, c_skip, c_out = (c.reshape(3, 1, 1) for c in scaling(LEVELS))
    net = Fixed((x0 - c_skip * x_t) / c_out)
    torch.testing.assert_close(NetDenoiser(net, "x0", scaling, lambda logsnr: logsnr)(x_t, LEVELS, COND).x0, x0)
    assert torch.equal(net.seen[0], c_in * x_t)


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolve, self.seen = nn.Conv2d(2, 2, 1), None

    def forward(self, x, c_noise, cond):
        raw = self.convolve(x)
        self.seen = (raw.dtype, c_noise)
        return raw


def test_autocast_narrows_the_network_and_nothing_else():
    schedule = ScaledLinearBeta()
    net, steps = Convolution(), torch.tensor([0.0, 501.0, 999.0], dtype=torch.float64)
    logsnr = schedule((steps + 1) / 1000).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = NetDenoiser(net, "eps", VP(), schedule.timesteps)(torch.randn(3, 2, 4, 4), logsnr, COND)
    assert net.seen[0] == torch.bfloat16 and out.x0.dtype == torch.float32
    torch.testing.assert_close(net.seen[1].double(), steps, rtol=0, atol=1e-3)  # bfloat16 levels: 1.5 steps off


def test_levels_wider_than_the_latent_do_not_widen_it():
    net = Convolution()
    denoise = NetDenoiser(net, "v", EDM(sigma_data=0.5), lambda logsnr: logsnr)
    out = denoise(torch.randn(3, 2, 4, 4), LEVELS, COND)
    assert out.x0.dtype == torch.float32 and net.seen[1].dtype == torch.float64


def test_weights_are_found_under_net():
    denoise = NetDenoiser(Convolution(), "v", VP(), lambda logsnr: logsnr)
    assert set(denoise.state_dict()) == {"net.convolve.weight", "net.convolve.bias"}


def test_bind_fixes_the_conditions_and_checks_the_rows():
    bound = bind(lambda x_t, logsnr, cond: Denoised(x_t + cond.tokens.sum()), Cond(torch.ones(2, 1, 3)))
    assert torch.equal(bound(torch.zeros(2, 5), torch.zeros(2)).x0, torch.full((2, 5), 6.0))
    with pytest.raises(ValueError, match="cond: 2 rows for 3 images"):
        bound(torch.zeros(3, 5), torch.zeros(3))
