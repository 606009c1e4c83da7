"""Langevin steps and predictor-corrector sampling against what is known of Gaussians and mixtures."""

import math
from itertools import pairwise

import pytest
import torch

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid
from ldm.process.schedule import LinearLogSNR
from ldm.process.sde import VariancePreserving
from ldm.samplers import bind_options, langevin

PREDICTORS = ["reverse_diffusion", "euler_maruyama"]
ELEMENTS = 10_000  # of one image, each an independent draw of a one-dimensional distribution


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def even(steps, first=-6.0, last=6.0):
    return TimeGrid(torch.linspace(first, last, steps + 1, dtype=torch.float64))


def gaussian(mean, var):
    return GaussianMixture(f64(1.0), f64([mean]), f64(var))


def elementwise(data):
    """The exact denoiser of an image whose elements are independent draws of one-dimensional `data`."""

    def denoise(x_t, logsnr):
        levels = logsnr.repeat_interleave(x_t[0].numel())
        return Denoised(data.denoise(x_t.reshape(-1, 1), levels).reshape(x_t.shape))

    return denoise


def moments_after(step, mean, var):
    """Mean and variance after a step that is affine in x and in the noise, exactly."""
    still, one = f64([0.0]), f64([1.0])
    next_mean = step(f64([mean]), still)
    gain, spread = step(f64([mean + 1]), still) - next_mean, step(f64([mean]), one) - next_mean
    return next_mean.item(), (gain**2 * var + spread**2).item()


@pytest.mark.parametrize("logsnr", [-3.0, 0.0, 4.0])
@pytest.mark.parametrize(("mean", "var"), [(0.0, 1.0), (1.5, 0.25)])
def test_langevin_step_keeps_a_gaussian_up_to_the_square_of_its_size(mean, var, logsnr):
    data, alpha_bar = gaussian(mean, var), 1 / (1 + math.exp(-logsnr))
    centre, spread = math.sqrt(alpha_bar) * mean, alpha_bar * var + 1 - alpha_bar
    for size in (0.1 * spread, 0.01 * spread, 0.001 * spread):

        def step(x, z, size=size):
            return langevin.langevin_step(x, data.score(x, f64(logsnr)), f64(size), z)

        found = moments_after(step, centre, spread)
        assert found == pytest.approx((centre, spread + size**2 / spread), rel=1e-10, abs=1e-12)


def test_many_langevin_steps_end_at_the_stated_variance_from_anywhere():
    size, mean, var = 0.2, 3.0, 9.0
    for _ in range(200):
        mean, var = moments_after(lambda x, z: langevin.langevin_step(x, -(x - 1) / 0.5, f64(size), z), mean, var)
    assert (mean, var) == pytest.approx((1.0, 0.5 / (1 - size / (2 * 0.5))), rel=1e-10)


@pytest.mark.parametrize("snr", [0.02, 0.16, 0.4])
def test_step_size_gives_the_two_parts_the_stated_ratio_of_lengths(snr):
    score, z = torch.randn(3, 4, 50, dtype=torch.float64) * 3, torch.randn(3, 4, 50, dtype=torch.float64)
    size = langevin.signal_to_noise_size(score, z, snr=snr)
    drift, kick = (
        (v.flatten(1).norm(dim=1)) for v in (size[:, None, None] * score, (2 * size).sqrt()[:, None, None] * z)
    )
    torch.testing.assert_close(drift / kick, torch.full_like(drift, snr), rtol=1e-10, atol=0)
    half = langevin.signal_to_noise_size(score, z, snr=snr, alpha_step=0.5)
    torch.testing.assert_close(half, size / 2, rtol=1e-12, atol=0)


def test_step_size_is_bounded_where_the_score_vanishes():
    size = langevin.signal_to_noise_size(torch.zeros(2, 3), torch.ones(2, 3), snr=0.16)
    assert torch.equal(size, torch.ones(2))


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_predictor_becomes_the_reverse_equation_in_short_steps(predictor):
    """Drift and noise per unit of level; the error falls with the step."""
    schedule = LinearLogSNR(logsnr_min=-1.0, logsnr_max=1.0)
    sde, t = VariancePreserving(schedule=schedule), f64(0.7)
    level, x = schedule(t), f64([0.8, -1.1])
    x0_hat = f64([0.3, 0.4])
    drift = sde.reverse_drift(x, sde.score(x0_hat, x, t), t)
    errors = []
    for dt in (1e-3, 1e-4):
        cleaner = schedule(t - dt)
        still, kicked = (
            langevin.predict(x, x0_hat, level.item(), cleaner.item(), predictor=predictor, z=z)
            for z in (None, torch.ones_like(x))
        )
        errors.append(((still - x) / -dt - drift).abs().max().item())
        torch.testing.assert_close(
            (kicked - still) ** 2 / dt, sde.diffusion_squared(t)[:, None].expand(1, 2), rtol=2 * dt, atol=0
        )
    assert errors[1] < 0.15 * errors[0] < 0.02


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_predictor_steps_at_the_ends_of_the_axis(predictor):
    x, x0_hat, z = f64([0.5, -2.0]), f64([1.0, 0.25]), f64([1.0, 3.0])
    for first in (-math.inf, -2.0):
        assert torch.equal(langevin.predict(x, x0_hat, first, math.inf, predictor=predictor), x0_hat)
    drawn = langevin.predict(x, x0_hat, -math.inf, 0.0, predictor=predictor, z=z)
    torch.testing.assert_close(drawn, (x0_hat + z) / math.sqrt(2), rtol=1e-14, atol=0)


def test_reverse_diffusion_as_the_paper_writes_it():
    (bar_t, bar_s), x = (0.2, 0.5), torch.randn(2, 3, dtype=torch.float64)
    x0_hat, z = torch.randn(2, 2, 3, dtype=torch.float64)
    beta, score = 1 - bar_t / bar_s, (math.sqrt(bar_t) * x0_hat - x) / (1 - bar_t)
    paper = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * z
    t, s = (math.log(bar / (1 - bar)) for bar in (bar_t, bar_s))
    torch.testing.assert_close(langevin.predict(x, x0_hat, t, s, z=z), paper, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_each_image_may_have_its_own_level(predictor):
    t, s = f64(-3.0, -math.inf, 2.0), f64(-1.0, 0.5, math.inf)
    x, x0_hat = torch.randn(2, 3, 4, dtype=torch.float64)
    rows = [langevin.predict(x[[i]], x0_hat[[i]], t[i].item(), s[i].item(), predictor=predictor) for i in range(3)]
    torch.testing.assert_close(langevin.predict(x, x0_hat, t, s, predictor=predictor), torch.cat(rows))


def marginal(data_mean, data_var, logsnr):
    alpha_bar = 1 / (1 + math.exp(-logsnr))
    return math.sqrt(alpha_bar) * data_mean, alpha_bar * data_var + 1 - alpha_bar


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_predictor_alone_is_of_first_order(predictor):
    errors, steps = [], [50, 100, 200]
    for n in steps:
        mean, var = marginal(1.0, 0.25, -6.0)
        for t, s in pairwise(even(n).logsnr.tolist()):

            def step(x, z, t=t, s=s):
                x0_hat = gaussian(1.0, 0.25).denoise(x, f64(t))
                return langevin.predict(x, x0_hat, t, s, predictor=predictor, z=z)

            mean, var = moments_after(step, mean, var)
        errors.append(abs(var - marginal(1.0, 0.25, 6.0)[1]) + abs(mean - marginal(1.0, 0.25, 6.0)[0]))
    assert math.log(errors[1] / errors[2]) / math.log(2) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("snr", [0.05, 0.16])
def test_corrector_with_the_signal_to_noise_rule_keeps_a_gaussian(snr):
    """Fifty corrections at one level. The bias allowed is that of steps of this size, snr^2; the rest is chance."""
    data, level = gaussian(0.5, 0.25), f64(0.0)
    mean, var = marginal(0.5, 0.25, 0.0)
    noise = NoiseStream([3])
    x = mean + math.sqrt(var) * noise.normal((1, ELEMENTS)).double()
    for _ in range(50):
        score = data.score(x.reshape(-1, 1), level.expand(ELEMENTS)).reshape(1, -1)
        z = noise.normal((1, ELEMENTS)).double()
        x = langevin.langevin_step(x, score, langevin.signal_to_noise_size(score, z, snr=snr), z)
    chance = 4 / math.sqrt(ELEMENTS)
    assert abs(x.mean().item() - mean) < chance * math.sqrt(var)
    assert abs(x.var().item() / var - 1) < chance * math.sqrt(2) + 1.1 * snr**2


MIXTURE = GaussianMixture(f64(0.3, 0.7), f64([-1.5], [1.0]), f64(0.09, 0.16))
MEAN = 0.3 * -1.5 + 0.7 * 1.0
VAR = 0.3 * (0.09 + 1.5**2) + 0.7 * (0.16 + 1.0) - MEAN**2
FOURTH = 2.0  # of the standardised mixture 1.9, so that the variance of squares is below FOURTH - 1

RUNS = [
    ("predictor_corrector", {"correctors": 0}, 200),
    ("predictor_corrector", {"correctors": 1}, 100),
    ("predictor_corrector", {"correctors": 2, "predictor": "euler_maruyama", "snr": 0.1}, 100),
    ("langevin", {"updates": 10, "rate": 0.1}, 30),
]


@pytest.mark.parametrize(("name", "options", "steps"), RUNS)
def test_mixture_sampled_with_its_exact_score(name, options, steps):
    """Mean, variance and weight of the left component within four standard errors of 10,000 draws, plus 2 % of bias."""
    noise, grid = NoiseStream([7]), TimeGrid(torch.cat([even(steps, -8.0, 7.0).logsnr, f64(math.inf)]))
    start = noise.normal((1, ELEMENTS)).double()
    x = bind_options(name, options)(elementwise(MIXTURE), start, grid, noise)
    error, bias = 4 / math.sqrt(ELEMENTS), 0.02
    assert abs(x.mean().item() - MEAN) < (error + bias) * math.sqrt(VAR)
    assert abs(x.var().item() / VAR - 1) < error * math.sqrt(FOURTH - 1) + bias
    left = (x < -0.4).double().mean().item()
    assert abs(left - 0.3) < error * math.sqrt(0.3 * 0.7) + bias


def test_correctors_take_back_the_predictors_error():
    """Twenty steps: the variance of samples from a narrow Gaussian, which the predictor alone leaves too wide."""
    data, errors = elementwise(gaussian(1.0, 0.25)), []
    _, var = marginal(1.0, 0.25, 6.0)
    for count in (0, 4):
        noise = NoiseStream([5])
        start = noise.normal((1, ELEMENTS)).double()
        x = langevin.predictor_corrector(data, start, even(20, -8.0), noise, correctors=count)
        errors.append(abs(x.var().item() / var - 1))
    assert errors[1] < 0.5 * errors[0]


def counted(calls):
    def denoise(x_t, logsnr):
        calls.append(logsnr[0].item())
        return Denoised(x_t / (1 + x_t * x_t))

    return denoise


CLEAN = TimeGrid(f64(-4.0, -1.0, 2.0, math.inf))
OPEN = TimeGrid(f64(-4.0, -1.0, 2.0))


@pytest.mark.parametrize(
    ("run", "options", "grid", "levels", "draws"),
    [
        (langevin.predictor_corrector, {"correctors": 2}, CLEAN, [-4, -1, -1, -1, 2, 2, 2], 6),
        (langevin.predictor_corrector, {"correctors": 1.0}, OPEN, [-4, -1, -1, 2], 4),
        (langevin.sample, {"updates": 2}, CLEAN, [-4, -1, -1, 2, 2, 2], 4),
        (langevin.sample, {"updates": 3.0}, OPEN, [-4, -1, -1, -1, 2, 2, 2], 6),
    ],
)
def test_cost_and_draws_are_those_stated(run, options, grid, levels, draws):
    calls, noise, expected = [], NoiseStream([1, 2]), NoiseStream([1, 2])
    run(counted(calls), torch.randn(2, 3, dtype=torch.float64), grid, noise, **options)
    assert calls == levels
    for _ in range(draws):
        expected.normal((2, 3))
    assert all(torch.equal(a, b) for a, b in zip(noise.state(), expected.state(), strict=True))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("predictor_corrector", {"predictor": "ancestral"}, "predictor: 'ancestral' is unknown"),
        ("predictor_corrector", {"correctors": -1}, "correctors: -1 is not a whole number of at least 0"),
        ("predictor_corrector", {"correctors": 1.5}, "correctors: 1.5 is not a whole number"),
        ("predictor_corrector", {"snr": 0.0}, r"snr: 0.0 is not a number in \(0, 1\)"),
        ("langevin", {"updates": 0}, "updates: 0 is not a whole number of at least 1"),
        ("langevin", {"updates": math.inf}, "updates: inf is not a whole number"),
        ("langevin", {"rate": 1.5}, r"rate: 1.5 is not a number in \(0, 1\]"),
        ("langevin", {"snr": 0.1}, "option 'snr' is unknown"),
    ],
)
def test_bad_options_are_refused_before_sampling(name, options, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        bind_options(name, options)


@pytest.mark.parametrize("run", [langevin.sample, langevin.predictor_corrector])
def test_missing_noise_is_named(run):
    with pytest.raises(ValueError, match="pass a NoiseStream"):
        run(counted([]), torch.zeros(1, 2), TimeGrid(f64(-1.0, 0.0)), None)
