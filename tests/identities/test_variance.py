"""The variance of a reverse step against worlds where it is known; what trains one and what uses one."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid
from ldm.process.schedule import ScaledLinearBeta
from ldm.process.variance import (
    AnalyticVariance,
    analytic,
    analytic_bounds,
    learned_range,
    noise_power,
    posterior,
    upper,
)
from ldm.samplers import SAMPLERS, ancestral, bind_options, ddim

LEVEL = st.floats(-10, 10)
GAP = st.floats(1e-2, 15)
DATA_VARS = [0.25, 1.0, 4.0]
NODES = torch.tensor(ScaledLinearBeta().nodes()[1:], dtype=torch.float64)
S, T = NODES[:-1], NODES[1:]  # every step of Stable Diffusion's table
LONG = (torch.tensor([3.0, -1.0, 5.0]).double(), torch.tensor([-2.0, -6.0, 0.5]).double())  # and three strides


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(var):
    return GaussianMixture(w=doubles(1.0), mu=doubles([0.0]), var=doubles(var))


MIXTURE = GaussianMixture(w=doubles(0.3, 0.7), mu=doubles([-1.5], [0.6]), var=doubles(0.02, 0.3))


def gamma_of_gaussian(var, logsnr):
    """E eps_hat^2 for data N(0, var): eps_hat = sigma x_t / V, V the variance of x_t."""
    return (-logsnr).sigmoid() / (logsnr.sigmoid() * var + (-logsnr).sigmoid())


def true_variance(var, s, t):
    """Var(x_s | x_t) for data N(0, var), by the covariance of x_s and x_t."""
    total_s, total_t = (level.sigmoid() * var + (-level).sigmoid() for level in (s, t))
    return total_s - t.sigmoid() / s.sigmoid() * total_s**2 / total_t


def close(found, expected, rtol=1e-10):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)


@given(LEVEL, GAP, st.floats(0, 1))
def test_learned_range_joins_the_two_bounds_evenly_in_the_logarithm(logsnr, gap, fraction):
    s, t = doubles(logsnr), doubles(logsnr - gap)
    low, high = posterior(s, t), upper(s, t)
    close(learned_range(doubles([0.0]), s, t)[0], low, rtol=1e-13)
    assert torch.equal(learned_range(doubles([1.0]), s, t)[0], high)
    mixed = torch.exp(fraction * high.log() + (1 - fraction) * low.log())
    close(learned_range(doubles([fraction]), s, t)[0], mixed, rtol=1e-12)


def test_the_bounds_are_the_papers_beta_tilde_and_beta_on_every_step():
    beta = doubles(*ScaledLinearBeta().beta_table())
    bar = (1 - beta).cumprod(0)
    close(upper(S, T), beta[1:], rtol=1e-10)
    close(posterior(S, T), beta[1:] * (1 - bar[:-1]) / (1 - bar[1:]), rtol=1e-10)


def test_each_element_has_its_fraction_and_a_scalar_level_is_every_image_s():
    fraction, s, t = torch.rand(3, 2, 4, dtype=torch.float64), doubles(1.0, 2.0, math.inf), doubles(0.5, -3.0, 0.0)
    found = learned_range(fraction, s, t)
    assert found.shape == (3, 2, 4) and (found[2] == 0).all()  # nothing is left to draw in a step to clean data
    close(learned_range(fraction, s[1], t[1])[1], found[1], rtol=1e-13)
    assert learned_range(fraction.float(), s[1], t[1]).dtype == torch.float32


@pytest.mark.parametrize("data_var", DATA_VARS)
@pytest.mark.parametrize(("s", "t"), [(S, T), LONG], ids=["table", "strides"])
def test_four_forms_of_the_analytic_variance_agree_on_gaussian_data(data_var, s, t):
    """Ours, the paper's in the score (Eq. 9), the form of its code in the noise, and the true Var(x_s | x_t)."""
    gamma = gamma_of_gaussian(data_var, t)
    step, var_s, var_t = t.sigmoid() / s.sigmoid(), (-s).sigmoid(), (-t).sigmoid()  # alpha_step, 1 - alpha_bar
    lower, score_power = posterior(s, t), gamma / var_t
    in_score = lower + ((var_t / step).sqrt() - (var_s - lower).sqrt()) ** 2 * (1 - var_t * score_power)
    beta = 1 - step
    in_noise = lower + s.sigmoid() * beta**2 / var_t**2 * (var_t / t.sigmoid()) * (1 - gamma)
    found = analytic(gamma, s, t)
    close(found, in_score, rtol=1e-10)  # the paper's form subtracts nearly equal roots
    close(found, in_noise, rtol=1e-10)
    close(found, true_variance(data_var, s, t), rtol=1e-10)  # and this one nearly equal variances


def test_the_best_variance_for_standard_normal_data_is_beta():
    close(analytic(gamma_of_gaussian(1.0, T), S, T), upper(S, T), rtol=1e-10)


@given(LEVEL, GAP, st.floats(0, 1), st.floats(-0.5, 1.5))
def test_bounds_are_the_published_ones_and_the_result_stays_inside(logsnr, gap, eta, gamma):
    s, t, gamma = doubles(logsnr), doubles(logsnr - gap), doubles(gamma)
    lower, highest = analytic_bounds(s, t, eta=eta)
    published = ((((-t).sigmoid() * s.sigmoid() / t.sigmoid()).sqrt()) - ((-s).sigmoid() - lower).sqrt()) ** 2
    close(lower, eta**2 * posterior(s, t), rtol=1e-13)
    close(highest, lower + published, rtol=1e-10)
    found = analytic(gamma, s, t, eta=eta)
    assert lower <= found <= highest * (1 + 1e-15)
    if not 0 <= gamma <= 1:
        assert torch.equal(found, lower if gamma > 1 else lower + (highest - lower))


def test_the_upper_bound_of_ddpm_is_beta_over_alpha():
    for s, t in [(S, T), LONG]:
        close(analytic_bounds(s, t)[1], upper(s, t) * s.sigmoid() / t.sigmoid(), rtol=1e-10)


def test_a_step_to_clean_data_leaves_what_is_open_about_it():
    t = doubles(-1.0, 2.0)
    found = analytic(gamma_of_gaussian(4.0, t), torch.full_like(t, math.inf), t)
    close(found, gaussian(4.0).variance(torch.zeros(2, 1).double(), t)[:, 0], rtol=1e-12)


def average(values, x_t, world, logsnr):
    """The mean over q(x_t) of values on an even grid `x_t` (n, 1): the trapezoid rule, exact for such densities."""
    density = world.log_prob(x_t, logsnr.expand(len(x_t))).exp()
    return (density * values.flatten()).sum() * (x_t[1] - x_t[0]).squeeze()


def gamma_of(world, logsnr, x):
    return average(noise_power(world.denoise(x, logsnr.expand(len(x))), x, logsnr.expand(len(x))), x, world, logsnr)


AXIS = torch.linspace(-9, 9, 1201, dtype=torch.float64)[:, None]
LINE = torch.linspace(-18, 18, 4801, dtype=torch.float64)[:, None]  # wide enough for data of variance 4
PAIRS = [(4.0, 2.5), (1.0, -2.0), (-1.0, -4.0)]


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_the_table_gives_the_true_mean_variance_of_a_mixture(s, t):
    """Var(x_s | x_t) from the joint density of the two alone, integrated over both, with no denoiser in it."""
    s, t = doubles(s).squeeze(), doubles(t).squeeze()
    step = t.sigmoid() / s.sigmoid()
    log_s = MIXTURE.log_prob(AXIS, s.expand(len(AXIS)))
    joint = log_s.exp() * torch.exp(-((AXIS - step.sqrt() * AXIS.T) ** 2) / (2 * (1 - step)))  # rows x_t, columns x_s
    joint = joint / joint.sum()
    mass, first, second = joint.sum(1), joint @ AXIS.squeeze(), joint @ AXIS.squeeze() ** 2
    truth = (second - first**2 / mass.clamp(min=1e-300)).sum()
    close(analytic(gamma_of(MIXTURE, t, AXIS), s, t), truth, rtol=1e-10)
    assert posterior(s, t) < truth < upper(s, t) / step


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("s", "t"), PAIRS)
@pytest.mark.parametrize("world", [gaussian(0.25), gaussian(4.0), MIXTURE], ids=["0.25", "4", "mixture"])
def test_analytic_ddim_keeps_the_second_moment(world, s, t, eta):
    """E x_s^2 = E (mean of the step)^2 + variance: the law of total variance, with ddim.step itself for the mean."""
    s, t = doubles(s).squeeze(), doubles(t).squeeze()
    mean = ddim.step(LINE, world.denoise(LINE, t.expand(len(LINE))), t.item(), s.item(), eta=eta)
    second = (world.w * (world.mu.squeeze(1) ** 2 + world.var)).sum()
    truth = s.sigmoid() * second + (-s).sigmoid() - average(mean**2, LINE, world, t)
    close(analytic(gamma_of(world, t, LINE), s, t, eta=eta), truth, rtol=1e-10)


GRID = TimeGrid(doubles(-12.0, -7.0, -2.0, 0.5, 0.75, 4.0))  # irregular, and few steps


def table_of(data_var, levels=GRID.logsnr):
    falling = levels.flip(0)
    return AnalyticVariance(
        logsnr=tuple(falling.tolist()), gamma=tuple(gamma_of_gaussian(data_var, falling).tolist()), model="exact"
    )


@pytest.mark.parametrize("data_var", DATA_VARS)
@pytest.mark.parametrize("eta", [None, 0.0, 0.3, 1.0])
def test_with_the_table_few_steps_reproduce_gaussian_data_exactly(data_var, eta):
    """Any variance of the data, where `posterior` needs one point and `upper` N(0, I); eta None is ancestral."""
    first, last = (level.sigmoid() * data_var + (-level).sigmoid() for level in GRID.logsnr[[0, -1]])
    table, var = table_of(data_var), first
    for t, s in ((t.item(), s.item()) for t, s in GRID.steps()):

        def move(x, z, t=t, s=s):
            x0_hat = gaussian(data_var).denoise(x, doubles(t))
            if eta is None:
                return ancestral.step(x, x0_hat, t, s, variance=table, z=z)
            return ddim.step(x, x0_hat, t, s, eta=eta, variance=table, z=z)

        still, one = doubles([0.0]), doubles([1.0])
        var = (move(one, still) ** 2 * var + move(still, one) ** 2).squeeze()
    close(var, last, rtol=1e-10)


FRACTION = 0.3


def confident(x_t, logsnr):
    """A denoiser that says the same of every element's variance."""
    return Denoised(x_t / (1 + x_t * x_t), torch.full_like(x_t, FRACTION))


def test_the_samplers_draw_with_the_variance_that_is_asked_for():
    x, seeds, levels = normals(2, 3), [1, 2], TimeGrid(doubles(-2.0, 0.5))
    z = NoiseStream(seeds).normal((2, 3), like=x)
    (t, s), table = levels.logsnr, table_of(0.25)
    choices = {
        "posterior": posterior(s, t),
        "upper": upper(s, t),
        "learned": posterior(s, t) ** (1 - FRACTION) * upper(s, t) ** FRACTION,
        table: true_variance(0.25, s, t),
    }
    mean = ancestral.step(x, confident(x, None).x0, t.item(), s.item())
    for variance, var in choices.items():
        found = ancestral.sample(confident, x, levels, NoiseStream(seeds), variance=variance)
        close((found - mean) / z, var.sqrt().expand(2, 3), rtol=1e-10)
    still = ddim.sample(confident, x, levels)
    found = ddim.sample(confident, x, levels, NoiseStream(seeds), variance=table)
    close((found - still) / z, analytic(gamma_of_gaussian(0.25, t), s, t, eta=0.0).sqrt().expand(2, 3), rtol=1e-10)
    row = torch.stack([t, t])
    one_each = ancestral.step(x, x, row, torch.stack([s, s]), variance="learned", var_fraction=x.sigmoid(), z=z)
    close(one_each, ancestral.step(x, x, t.item(), s.item(), variance="learned", var_fraction=x.sigmoid(), z=z))


def test_samplers_refuse_what_they_cannot_know():
    def silent(x_t, logsnr):
        return Denoised(x_t)

    def unrun(x_t, logsnr):
        raise AssertionError("the network was run")

    x, noise, levels = normals(1, 3), NoiseStream([1]), TimeGrid(doubles(-2.0, 0.5, math.inf))
    with pytest.raises(ValueError, match="'learned', but the denoiser gives no var_fraction"):
        ancestral.sample(silent, x, levels, noise, variance="learned")
    for sample in (ancestral.sample, ddim.sample):
        with pytest.raises(ValueError, match="-2.0 nats is not in the variance table"):
            sample(unrun, x, levels, noise, variance=table_of(1.0, doubles(-3.0, 0.5)))
        sample(silent, x, levels, noise, variance=table_of(1.0, doubles(-2.0, 3.0)))  # 0.5 steps to clean data
    for name in ("ancestral", "ddim"):
        bind_options(name, {"variance": table_of(1.0)})
    bind_options("ancestral", {"variance": "learned"})
    assert set(SAMPLERS) >= {"ancestral", "ddim"}


@pytest.mark.parametrize("variance", ["upper", "lerned"])
def test_ddim_has_two_variances_only(variance, without_shape_checks):
    with pytest.raises(ValueError, match=f"variance: '{variance}' is unknown; use posterior"):
        bind_options("ddim", {"variance": variance})


def test_a_table_answers_for_its_levels_alone():
    table = AnalyticVariance(logsnr=(2.0, 0.5, -3.0), gamma=(0.1, 0.4, 0.9), model="ab12")
    assert [table.gamma_at(v) for v in (2.0, 0.5 + 9e-6, -3.0 - 9e-6)] == [0.1, 0.4, 0.9]
    for level in (0.4, 2.1, -3.1, math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=f"logsnr: {level} nats is not in the variance table"):
            table.gamma_at(level)
    s, t = doubles(3.0, 1.0), doubles(2.0, -3.0)
    assert torch.equal(table(s, t, eta=0.5), analytic(doubles(0.1, 0.9), s, t, eta=0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": (0.5,)}, "gamma: 1 values for 2 levels"),
        ({"logsnr": (), "gamma": ()}, "gamma: 0 values for 0 levels"),
        ({"logsnr": (1.0, -math.inf)}, "logsnr: -inf is not finite"),
        ({"logsnr": (-1.0, 1.0)}, "do not fall"),
        ({"gamma": (0.5, -0.1)}, "gamma: -0.1 at -1.0 nats"),
        ({"gamma": (math.nan, 0.1)}, "gamma: nan"),
    ],
)
def test_a_bad_table_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(AnalyticVariance(logsnr=(1.0, -1.0), gamma=(0.5, 0.8), model="ab12"), **change)
