"""Bits per dimension of latents where the likelihood is known: a mixture of Gaussians."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.evaluation.bpd import estimated_terms, flow_terms
from ldm.evaluation.paths import analytic_variance, level_errors, nodes_of, path_terms, table_of, term_table
from ldm.process.conditionals import q_sample
from ldm.process.elbo import denoise_term, first_decoder, recon_term
from ldm.process.exact import GaussianMixture
from ldm.process.grid import uniform_logsnr
from ldm.process.paths import even, optimal_paths, path_along, quadratic
from ldm.process.schedule import Cosine, LinearBeta, LinearLogSNR
from ldm.process.variance import AnalyticVariance, noise_power

INF = math.inf


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


WORLD = GaussianMixture(w=doubles(0.3, 0.7), mu=doubles([-1.0, 0.6], [0.8, -0.4]), var=doubles([0.2, 0.4], [0.3, 0.1]))


def best(x_t, logsnr):
    return Denoised(x0=WORLD.denoise(x_t, logsnr))


def drawn(n, seed=0):
    noise = NoiseStream([seed])
    return WORLD.sample(noise.uniform((1, n))[0].double(), noise.normal((1, n, 2))[0].double())


def nll(x0):
    return -WORLD.log_prob(x0, torch.full((len(x0),), INF, dtype=torch.float64))


def errors_at(levels, n, seed=0):
    x0 = drawn(n, seed)
    return x0, level_errors(best, x0, levels, NoiseStream(range(seed, seed + n)))


def every(schedule, steps):
    """Levels at t = 1/T, ..., 1."""
    return schedule(torch.arange(1, steps + 1).double() / steps)


# The bound without a first stage

LINE = GaussianMixture(w=doubles(0.3, 0.7), mu=doubles([-1.0], [0.8]), var=doubles(0.2, 0.1))
AXIS = torch.linspace(
    -7, 7, 401, dtype=torch.float64
)  # 0.035 apart: the trapezoid rule is exact on Gaussians this wide


def integral(values):
    return values.sum(-1) * (AXIS[1] - AXIS[0])


def over_the_axis(function, levels):
    """A function of (x_t, logsnr) at every level and every point of the axis (levels, 401)."""
    x_t, logsnr = AXIS.repeat(len(levels))[:, None], levels.repeat_interleave(len(AXIS))
    return function(x_t, logsnr).reshape(len(levels), len(AXIS))


def expected_errors(levels):
    """E|x_0 - E[x_0 | x_t]|^2 at every level, by quadrature: a row as of one picture (1, t)."""
    density = over_the_axis(LINE.log_prob, levels).exp()
    return integral(density * over_the_axis(lambda x_t, logsnr: LINE.variance(x_t, logsnr)[:, 0], levels))[None]


def expected_bound_and_entropy(levels, variance):
    density = over_the_axis(LINE.log_prob, doubles(INF))[0].exp()
    power = integral(density * AXIS**2).sqrt().reshape(1, 1)  # the prior term sees x_0 only through its square
    indices = range(1, len(levels) + 1)
    terms = path_terms(expected_errors(levels), power, levels, indices, variance)
    return terms.total.item(), -integral(density * density.log().clamp(min=-700)).item()


@pytest.mark.parametrize("schedule", [LinearLogSNR(logsnr_min=-9.0, logsnr_max=9.0), Cosine()], ids=lambda s: s.kind)
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100])
def test_the_bound_is_above_the_likelihood_for_every_number_of_steps(schedule, steps):
    levels = every(schedule, steps)
    bound, true = expected_bound_and_entropy(levels, "posterior")
    tuned, _ = expected_bound_and_entropy(levels, analytic_variance(expected_errors(levels), levels, 1))
    assert true < tuned < bound


def test_with_a_thousand_analytic_steps_it_is_within_one_percent_and_the_rest_shrinks_with_the_step():
    def at(steps, tuned=False):
        levels = every(LinearLogSNR(logsnr_min=-9.0, logsnr_max=9.0), steps)
        return expected_bound_and_entropy(
            levels, analytic_variance(expected_errors(levels), levels, 1) if tuned else "posterior"
        )

    bound, true = at(1000, tuned=True)
    assert true < bound < 1.01 * true
    (fine, _), (coarse, _) = at(1000), at(250)
    assert (coarse - true) / (fine - true) == pytest.approx(4, rel=0.1)  # first order for the posterior's variance


def test_measured_errors_have_the_expected_mean():
    levels, n = doubles(6.0, 1.0, -3.0), 4000
    noise = NoiseStream([3])
    x0 = LINE.sample(noise.uniform((1, n))[0].double(), noise.normal((1, n, 1))[0].double())
    errors = level_errors(lambda x_t, logsnr: Denoised(LINE.denoise(x_t, logsnr)), x0, levels, NoiseStream(range(n)))
    assert (abs(errors.mean(0) - expected_errors(levels)[0]) < 4 * errors.std(0) / n**0.5).all()


def test_the_estimate_from_all_levels_is_the_sum_over_them_and_that_from_some_is_unbiased():
    """A denoiser that is off by a known amount, so that nothing depends on the noise."""
    x0, schedule, steps = drawn(3), LinearBeta(), 6

    def off(x_t, logsnr):
        return Denoised(x0 + 0.1 * torch.sigmoid(logsnr)[:, None])

    levels = every(schedule, steps)
    t, s = levels[1:], levels[:-1]
    whole = sum(denoise_term(x0[:1], x0[:1] + 0.1 * b.sigmoid(), a[None], b[None]) for a, b in zip(s, t, strict=True))
    found = estimated_terms(off, x0, schedule, NoiseStream([1, 2, 3]), steps=steps, draws=steps - 1)
    assert torch.allclose(found.denoise, whole.expand(3), rtol=1e-6)  # times are uniform draws in float32
    some = [
        estimated_terms(off, x0, schedule, NoiseStream([i, i + 500, i + 900]), steps=steps, draws=2).denoise.mean()
        for i in range(200)
    ]
    some = torch.stack(some)
    assert abs(some.mean() - whole) < 4 * some.std() / len(some) ** 0.5


def test_the_continuous_estimate_agrees_with_the_likelihood():
    x0 = drawn(400, seed=5)
    schedule = LinearLogSNR(logsnr_min=-9.0, logsnr_max=9.0)
    found = estimated_terms(best, x0, schedule, NoiseStream(range(400, 800)), steps=None, draws=40).total - nll(x0)
    assert abs(found.mean()) < 4 * found.std() / 20
    assert found.std() < 3  # stratified: forty independent levels would give half as much again


def test_the_probability_flow_gives_the_likelihood_of_every_latent():
    """On a line a probe of signs is exact, and at 14 nats the flow's own noise is a thousandth."""
    noise = NoiseStream([3])
    x0 = LINE.sample(noise.uniform((1, 20))[0].double(), noise.normal((1, 20, 1))[0].double())
    true = -LINE.log_prob(x0, torch.full((20,), INF, dtype=torch.float64))
    grid = uniform_logsnr(LinearLogSNR(logsnr_min=-9.0, logsnr_max=13.0), 40, end=14.0)
    flow = flow_terms(lambda x_t, logsnr: Denoised(LINE.denoise(x_t, logsnr)), x0, grid, NoiseStream(range(20))).total
    assert (flow - true).abs().max() < 0.03


def test_pixels_without_a_first_stage_are_probabilities():
    """With all but clean pixels the bound of a perfect denoiser costs nothing beyond its prior."""
    x0 = torch.randint(0, 256, (5, 12)).double() / 127.5 - 1
    schedule = LinearLogSNR(logsnr_min=-9.0, logsnr_max=18.0)
    terms = estimated_terms(
        lambda x_t, logsnr: Denoised(x0), x0, schedule, NoiseStream(range(5)), steps=None, draws=2, values=256
    )
    assert (terms.denoise == 0).all() and (terms.recon >= 0).all() and terms.recon.max() < 1e-6


@given(st.integers(1, 9))
def test_pixels_are_decoded_from_the_first_level_of_the_steps(steps):
    x0 = torch.randint(0, 256, (5, 12)).double() / 127.5 - 1
    schedule = LinearLogSNR(logsnr_min=-9.0, logsnr_max=18.0)
    terms = estimated_terms(
        lambda x_t, logsnr: Denoised(x0), x0, schedule, NoiseStream(range(5)), steps=steps, draws=1, values=256
    )
    noise = NoiseStream(range(5))
    noise.uniform((5,))
    first = schedule(torch.full((5,), 1 / steps, dtype=torch.float64))
    z_first = q_sample(x0, noise.normal(x0.shape, like=x0), first)
    expected = recon_term(x0, first_decoder(z_first, first), 256)
    torch.testing.assert_close(terms.recon, expected, rtol=1e-10, atol=1e-12)
    assert steps > 3 or (expected > 1).all()  # the level says something


# Tables and sub-paths


def test_a_sub_path_costs_what_its_table_says_and_no_less_than_the_best():
    levels = every(Cosine(logsnr_min=-8.0, logsnr_max=8.0), 24)
    x0, errors = errors_at(levels, 50)
    for variance in ("posterior", "upper", analytic_variance(errors, levels, 2)):
        table = table_of(errors, levels, 2, variance)
        paths = optimal_paths(table, 24)
        for steps in range(1, 25):
            for indices in (paths[steps - 1].indices, even(24, steps), quadratic(24, steps)):
                terms = path_terms(errors, x0, levels, indices, variance)
                measured = (terms.recon + terms.denoise).mean().item()
                assert measured == pytest.approx(path_along(table, indices).nats, rel=1e-10)
                assert measured >= paths[steps - 1].nats * (1 - 1e-12)
        with pytest.raises(ValueError, match="every node once, rising"):
            path_terms(errors, x0, levels, (2, 2, 4), variance)
        with pytest.raises(ValueError, match="indices: 25 is beyond the last of 24 levels"):
            path_terms(errors, x0, levels, (1, 25), variance)


def test_on_other_latents_a_sub_path_is_still_a_bound_and_at_most_noise_better_than_its_table():
    levels = every(Cosine(logsnr_min=-8.0, logsnr_max=8.0), 24)
    seen = errors_at(levels, 300)[1]
    variance = analytic_variance(seen, levels, 2)
    x0, errors = errors_at(levels, 300, seed=5000)
    for path in optimal_paths(table_of(seen, levels, 2, variance), 24)[1::5]:
        terms = path_terms(errors, x0, levels, path.indices, variance)
        gap = terms.total - nll(x0)
        assert gap.mean() > -3 * gap.std() / 300**0.5
        spread = ((terms.recon + terms.denoise).std() * (2 / 300) ** 0.5).item()
        assert (terms.recon + terms.denoise).mean().item() > path.nats - 4 * spread


def test_a_table_is_the_divergences_step_by_step():
    """Every entry against `denoise_term` of the latents themselves, for a step of any length."""
    x0, levels = drawn(6), doubles(6.0, 2.0, 0.5, -4.0)
    x0_hat = {level: x0 + 0.3 * torch.randn(6, 2, dtype=torch.float64) for level in levels.tolist()}
    table = term_table(lambda x_t, logsnr: Denoised(x0_hat[logsnr[0].item()]), x0, levels, NoiseStream(range(6)))
    for t in range(1, 4):
        for s in range(t):
            pair = levels[s].expand(6), levels[t].expand(6)
            term = denoise_term(x0, x0_hat[levels[t].item()], *pair).mean()
            assert table[t + 1, s + 1].item() == pytest.approx(term.item(), rel=1e-10)
    assert torch.isinf(table[torch.ones(5, 5, dtype=torch.bool).triu()]).all()
    assert torch.allclose(table[1:, 0], math.log(2 * math.pi * math.e) - levels, rtol=1e-12)


@given(st.floats(0.05, 4.0), st.integers(0, 1000))
def test_no_single_variance_is_better_on_any_step_than_the_analytic_one(factor, seed):
    levels = every(Cosine(logsnr_min=-8.0, logsnr_max=8.0), 6)
    errors = errors_at(levels, 20, seed)[1]
    errors = torch.minimum(errors, errors / errors.mean(0) * 1.9 / levels.exp())  # no worse than no network at all
    variance = analytic_variance(errors, levels, 2)
    table = table_of(errors, levels, 2, variance)
    steps = torch.ones(7, 7, dtype=torch.bool).tril(-1)
    for other in ("posterior", "upper", _scaled(variance, factor)):
        worse = table_of(errors, levels, 2, other)
        assert (table[steps] <= worse[steps] + 1e-9).all()


def _scaled(variance, factor):
    """Another table of statistics: 1 - gamma times a factor."""
    gamma = tuple(max(0.0, 1 - factor * (1 - g)) for g in variance.gamma)
    return AnalyticVariance(logsnr=variance.logsnr, gamma=gamma, model="")


def test_for_the_exact_denoiser_the_statistic_is_the_power_of_its_noise():
    levels = doubles(4.0, 0.0, -3.0)
    x0 = drawn(4000)
    errors = level_errors(best, x0, levels, NoiseStream(range(4000)))
    variance = analytic_variance(errors, levels, 2)
    for i, level in enumerate(levels):
        eps = torch.randn(4000, 2, dtype=torch.float64)
        x_t = level.sigmoid().sqrt() * x0 + (-level).sigmoid().sqrt() * eps
        power = noise_power(WORLD.denoise(x_t, level.expand(4000)), x_t, level.expand(4000))
        assert variance.gamma[i] == pytest.approx(power.mean().item(), abs=0.04)


def test_nodes_are_the_levels_of_timesteps():
    schedule = LinearBeta()
    assert nodes_of(schedule, [0, 499, 999]).tolist() == [schedule.nodes()[i] for i in (1, 500, 1000)]
    for bad in ([], [3, 3], [5, 2], [0, 1000]):
        with pytest.raises(ValueError, match="timesteps"):
            nodes_of(schedule, bad)
