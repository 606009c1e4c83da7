"""A variance that the network says: its output, and the hybrid loss that teaches it."""

import pytest
import torch
from torch import nn

from ldm.denoiser import Denoised, NetDenoiser
from ldm.losses import hybrid_loss
from ldm.nets.cond import Cond
from ldm.process.conditionals import q_sample
from ldm.process.elbo import denoise_term
from ldm.process.exact import GaussianMixture
from ldm.process.prediction import VP, target
from ldm.process.schedule import Cosine
from ldm.process.variance import (
    learned_range,
    posterior,
    upper,
)
from ldm.process.weights import SimpleEps


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, rtol=1e-10):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)


def gaussian(var):
    return GaussianMixture(w=doubles(1.0), mu=doubles([0.0]), var=doubles(var))


def true_variance(var, s, t):
    """Var(x_s | x_t) for data N(0, var), by the covariance of x_s and x_t."""
    total_s, total_t = (level.sigmoid() * var + (-level).sigmoid() for level in (s, t))
    return total_s - t.sigmoid() / s.sigmoid() * total_s**2 / total_t


FRACTION = 0.3


def confident(x_t, logsnr):
    """A denoiser that says the same of every element's variance."""
    return Denoised(x_t / (1 + x_t * x_t), torch.full_like(x_t, FRACTION))


class Fixed(nn.Module):
    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, x, c_noise, cond):
        return self.out


def test_a_network_of_twice_the_channels_says_its_variance():
    x0, eps, v, level = normals(2, 3, 4), normals(2, 3, 4, seed=1), normals(2, 3, 4, seed=2), doubles(-1.0, 2.0)
    net, cond = Fixed(torch.cat([target("v", x0, eps, level), v], dim=1)), Cond(torch.zeros(2, 1, 1))
    said = NetDenoiser(net, "v", VP(), lambda logsnr: logsnr, learned_variance=True)(
        q_sample(x0, eps, level), level, cond
    )
    torch.testing.assert_close(said.x0, x0)
    assert torch.equal(said.var_fraction, (v + 1) / 2)
    plain = NetDenoiser(Fixed(eps), "eps", VP(), lambda logsnr: logsnr)
    assert plain(q_sample(x0, eps, level), level, cond).var_fraction is None
    plain.learned_variance = True
    with pytest.raises(ValueError, match="net: 3 channels of output for 3 of x_t"):
        plain(x0, level, cond)


SCHEDULE = Cosine(logsnr_min=-8.0, logsnr_max=7.0)
STEPS = 6


def hybrid(mean, fraction, share=0.01):
    """Loss (STEPS, 4) over one time for each step, of the four points that carry the moments of (x_0, eps)."""
    x0 = 0.5 * doubles([1.0], [1.0], [-1.0], [-1.0]).repeat(STEPS, 1)
    eps = doubles([1.0], [-1.0], [1.0], [-1.0]).repeat(STEPS, 1)
    t = ((torch.arange(STEPS).double() + 0.5) / STEPS).repeat_interleave(4)

    def denoise(x_t, logsnr):
        spread = fraction.repeat_interleave(4)[:, None]
        return Denoised(mean * gaussian(0.25).denoise(x_t, logsnr), spread)

    return hybrid_loss(denoise, x0, eps, t, SCHEDULE, SimpleEps(), steps=STEPS, share=share).unflatten(0, (STEPS, 4))


def parameters(gain=0.8, fraction=0.4):
    gain = torch.tensor(gain, dtype=torch.float64, requires_grad=True)
    return gain, torch.full((STEPS,), fraction, dtype=torch.float64, requires_grad=True)


def test_the_bound_of_the_hybrid_loss_teaches_the_variance_and_never_the_mean():
    grads = {}
    for share in (0.0, 0.01, 1.0):
        mean, fraction = parameters()
        grads[share] = torch.autograd.grad(hybrid(mean, fraction, share).mean(), [mean, fraction])
    assert torch.equal(grads[0.0][0], grads[0.01][0]) and torch.equal(grads[0.0][0], grads[1.0][0])
    assert grads[0.0][0] != 0 and (grads[0.0][1] == 0).all() and (grads[1.0][1] != 0).all()
    close(grads[0.01][1], 0.01 * grads[1.0][1])


def test_the_bound_of_the_hybrid_loss_is_all_its_denoising_terms():
    mean, fraction = parameters()
    found = (hybrid(mean, fraction, 1.0) - hybrid(mean, fraction, 0.0)).mean()
    level = SCHEDULE(torch.arange(STEPS + 1).double() / STEPS)
    x0, eps = 0.5 * doubles([1.0], [1.0], [-1.0], [-1.0]), doubles([1.0], [-1.0], [1.0], [-1.0])
    terms = []
    for s, t in zip(level[:-1, None].expand(-1, 4), level[1:, None].expand(-1, 4), strict=True):
        x0_hat = mean * gaussian(0.25).denoise(q_sample(x0, eps, t), t)
        terms.append(denoise_term(x0, x0_hat, s, t, learned_range(doubles([0.4]).expand(4, 1), s, t)).mean())
    close(found, torch.stack(terms).sum(), rtol=1e-10)


def test_the_best_learned_variance_is_the_analytic_one():
    """With the true mean, the bound's gradient vanishes where the fraction gives Var(x_s | x_t)."""
    level = SCHEDULE(torch.arange(STEPS + 1).double() / STEPS)
    s, t = level[:-1], level[1:]
    low, high = posterior(s, t).log(), upper(s, t).log()
    best = (true_variance(0.25, s, t).log() - low) / (high - low)
    assert ((best > 0) & (best < 1)).all()
    slopes = []
    for offset in (-0.05, 0.0, 0.05):
        fraction = (best + offset).requires_grad_()
        slopes.append(torch.autograd.grad(hybrid(torch.ones(()).double(), fraction, 1.0).mean(), fraction)[0])
    assert (slopes[0] < 0).all() and (slopes[2] > 0).all()
    assert (slopes[1].abs() < 1e-8 * slopes[2]).all()


def test_hybrid_loss_refuses_a_denoiser_without_variance():
    def silent(x_t, logsnr):
        return Denoised(x_t)

    x, t = normals(2, 3), doubles(0.2, 0.7)
    with pytest.raises(ValueError, match="gives no var_fraction"):
        hybrid_loss(silent, x, x, t, SCHEDULE, SimpleEps(), steps=4)
    with pytest.raises(ValueError, match="steps: 0"):
        hybrid_loss(confident, x, x, t, SCHEDULE, SimpleEps(), steps=0)
