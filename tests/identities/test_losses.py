"""The training objectives, on a world whose best denoiser and whose bound are known in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from ldm.denoiser import Denoised
from ldm.losses import denoising_loss, vlb_loss
from ldm.nets.gamma import GammaNet, GammaSpec
from ldm.process.conditionals import q_sample
from ldm.process.elbo import denoise_term
from ldm.process.exact import GaussianMixture
from ldm.process.schedule import Cosine, LinearBeta, LinearLogSNR, Sigmoid
from ldm.process.weights import Elbo, MinSNR, SimpleEps

VAR = 0.6  # of the data
ENDS = {"logsnr_min": -9.0, "logsnr_max": 11.0}


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


# Four points carry the first two moments of (x_0, eps), all that a quadratic loss of a linear denoiser sees.
X0 = math.sqrt(VAR) * doubles([1.0], [1.0], [-1.0], [-1.0])
EPS = doubles([1.0], [-1.0], [1.0], [-1.0])
WORLD = GaussianMixture(w=doubles(1.0), mu=doubles([0.0]), var=doubles(VAR))


def best(x_t, logsnr):
    return Denoised(x0=WORLD.denoise(x_t, logsnr))


def never(x_t, logsnr):
    raise AssertionError("the network was run")


def at_each(values):
    """The four points once for every value: x_0 (4 n, 1), eps (4 n, 1), values (4 n,)."""
    return X0.repeat(len(values), 1), EPS.repeat(len(values), 1), values.repeat_interleave(4)


def average(term):
    """Means over the four points (n,) of a term (4 n,)."""
    return term.unflatten(0, (-1, 4)).mean(1)


def bound(schedule, steps):
    """The expected negative bound in closed form, per term: E|x_0 - x0_hat|^2 at a level is VAR / (1 + VAR SNR)."""
    first = 0.0 if steps is None else 1 / steps
    snr = schedule(doubles(first, 1.0)).exp()
    alpha_bar, var = snr[1] / (1 + snr[1]), 1 / (1 + snr[1])
    recon = 0.5 * (math.log(2 * math.pi * math.e) - snr[0].log())
    prior = 0.5 * (alpha_bar * VAR + var - 1 - var.log())
    if steps is None:
        denoise = 0.5 * torch.log((1 + VAR * snr[0]) / (1 + VAR * snr[1]))
    else:
        levels = schedule(torch.arange(1, steps + 1).double() / steps).exp()
        denoise = 0.5 * ((levels[:-1] - levels[1:]) * VAR / (1 + VAR * levels[1:])).sum()
    return recon.item(), prior.item(), denoise.item()


@pytest.mark.parametrize("steps", [2, 3, 10, 64])
@pytest.mark.parametrize("schedule", [Cosine(**ENDS), LinearBeta()], ids=["cosine", "linear_beta"])
def test_the_one_level_estimate_of_the_discrete_bound_is_unbiased(schedule, steps):
    recon, prior, denoise = bound(schedule, steps)
    cells = (torch.arange(steps - 1).double() + 0.5) / (steps - 1)  # one time for each of the steps - 1 terms
    x0, eps, t = at_each(cells)
    terms = vlb_loss(best, x0, eps, t, schedule, steps=steps)
    assert terms.denoise.mean().item() == pytest.approx(denoise, rel=1e-10)
    assert terms.recon.mean().item() == pytest.approx(recon, rel=1e-10)
    assert terms.prior.mean().item() == pytest.approx(prior, rel=1e-11)


def learned(seed):
    """A schedule network whose interior is anything."""
    torch.manual_seed(seed)
    gamma = GammaNet(GammaSpec(width=8, **ENDS))
    with torch.no_grad():
        for parameter in gamma.interior():
            parameter.add_(torch.randn(parameter.shape))
    return gamma.requires_grad_(False)


@pytest.mark.parametrize(
    "schedule",
    [Cosine(**ENDS), LinearLogSNR(**ENDS), Sigmoid(**ENDS), learned(0), learned(1)],
    ids=["cosine", "linear", "sigmoid", "learned", "learned otherwise"],
)
def test_the_continuous_bound_sees_only_the_ends_of_the_schedule(schedule):
    recon, prior, denoise = bound(schedule, None)
    u = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    x0, eps, t = at_each(u**3 * (10 - 15 * u + 6 * u**2))  # dense at both ends, where the trapezoid rule needs it
    terms = vlb_loss(best, x0, eps, t, schedule)
    integrand = average(terms.denoise) * 30 * (u * (1 - u)) ** 2  # d t / d u; zero at both ends
    assert integrand.sum().item() / 20_000 == pytest.approx(denoise, rel=1e-12)
    assert terms.recon.mean().item() == pytest.approx(recon, rel=1e-10)
    assert terms.prior.mean().item() == pytest.approx(prior, rel=1e-11)


def test_the_continuous_bound_is_a_bound_and_tight_for_the_exact_denoiser():
    likelihood = 0.5 * math.log(2 * math.pi * math.e * VAR)
    total = sum(bound(Cosine(**ENDS), None))
    assert likelihood <= total <= likelihood + 1e-4


def test_more_steps_between_the_same_ends_never_loosen_the_bound_and_tend_to_the_continuous_one():
    def discrete(cells):
        levels = torch.linspace(11, -9, cells + 1, dtype=torch.float64)
        x0, eps, level_t = at_each(levels[1:])
        level_s = levels[:-1].repeat_interleave(4)
        x0_hat = WORLD.denoise(q_sample(x0, eps, level_t), level_t)
        return average(denoise_term(x0, x0_hat, level_s, level_t)).sum().item()

    limit = bound(LinearLogSNR(**ENDS), None)[2]
    totals = [discrete(2**k) for k in range(10)]
    assert all(finer < coarser for coarser, finer in pairwise(totals)) and totals[-1] > limit
    gaps = [total - limit for total in totals]
    assert gaps[-2] / gaps[-1] == pytest.approx(2, rel=0.02)  # first order in the size of the steps


@pytest.mark.parametrize("schedule", [Cosine(**ENDS), LinearBeta(steps=1)], ids=["cosine", "linear_beta"])
def test_one_step_has_no_denoising_term_and_runs_no_network(schedule):
    terms = vlb_loss(never, X0, EPS, doubles(0.3).expand(4), schedule, steps=1)
    recon, prior, _ = bound(schedule, 1)
    assert (terms.denoise == 0).all()
    assert terms.total.mean().item() == pytest.approx(recon + prior, rel=1e-10)


def test_denoising_loss_is_the_weight_times_the_mean_squared_error():
    level, slope = doubles(-2.0, 1.0, 3.0, 0.0), torch.full((4,), -7.0, dtype=torch.float64)
    x0, eps = torch.randn(4, 3, 2, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)

    def off_by_half(x_t, logsnr):
        assert torch.equal(x_t, q_sample(x0, eps, level)) and torch.equal(logsnr, level)
        return Denoised(x0=x0 + 0.5)

    for weight in (MinSNR(), SimpleEps(), Elbo()):
        loss = denoising_loss(off_by_half, x0, eps, level, weight, slope)
        assert torch.allclose(loss, 0.25 * weight(level, slope), rtol=1e-12, atol=1e-14)
    assert (denoising_loss(lambda x, _: Denoised(x0=x0), x0, eps, level, MinSNR(), slope) == 0).all()


def test_no_linear_denoiser_has_a_lower_loss_than_the_exact_one():
    schedule, t = Cosine(**ENDS), doubles(0.4).expand(4)
    level, slope = schedule(t), schedule.slope(t)

    def loss(gain):
        def scaled(x_t, logsnr):
            return Denoised(x0=gain * WORLD.denoise(x_t, logsnr))

        return denoising_loss(scaled, X0, EPS, level, MinSNR(), slope).mean()

    gain = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope_of_loss,) = torch.autograd.grad(loss(gain), gain)
    assert slope_of_loss.item() == pytest.approx(0, abs=1e-12)
    assert loss(torch.tensor(0.9).double()) > loss(torch.tensor(1.0).double())


def test_bad_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="steps: 0"):
        vlb_loss(best, X0, EPS, doubles(0.3).expand(4), LinearBeta(), steps=0)
