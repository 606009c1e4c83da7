"""What every sampler promises, whatever its method; and the identities that tie them together."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import Spacing, TimeGrid, spaced
from ldm.process.schedule import ScaledLinearBeta
from ldm.samplers import SAMPLERS, ancestral, bind_options, ddim, dpm_solver
from ldm.samplers.loop import exact

VARIANTS = [
    ("adaptive", {}),
    ("ancestral", {}),
    ("ancestral", {"variance": "upper"}),
    ("ddim", {}),
    ("ddim", {"eta": 0.4}),
    ("ddim", {"eta": 1.0}),
    ("dpm_solver", {}),
    ("dpm_solver", {"order": 3}),
    ("dpm_solver", {"order": 3, "eta": 0.5}),
    ("dpm_solver", {"eta": 1.0}),
    ("euler", {}),
    ("euler_ancestral", {}),
    ("heun", {}),
    ("langevin", {"updates": 2}),
    ("predictor_corrector", {"correctors": 0, "predictor": "euler_maruyama"}),
    ("predictor_corrector", {"correctors": 2}),
    ("unipc", {}),
    ("unipc", {"order": 3}),
    ("unipc", {"order": 3, "correct": False}),
]
EXTRA = {"langevin": ("updates", 1), "predictor_corrector": ("correctors", 0)}  # which option, and where it adds none


def at_each_level(name, options):
    """Evaluations, and draws, at a level beyond the one that every sampler makes there."""
    option, usual = EXTRA.get(name, ("", 0))
    return options.get(option, usual) - usual


every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS)
LEVELS = [(-math.inf, -3.0), (-9.0, -8.99), (-2.0, 1.5), (0.0, 12.0), (11.0, 11.5)]
INF = math.inf


def bounded(x_t, logsnr):
    """A denoiser of plain arithmetic, so that its bits do not depend on the batch."""
    return Denoised(x_t / (1 + x_t * x_t))


def grid_of(*levels):
    return TimeGrid(torch.tensor(levels, dtype=torch.float64))


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_sampler_is_among_the_variants():
    assert {name for name, _ in VARIANTS} == set(SAMPLERS)


ONCE = [(n, o) for n, o in VARIANTS if not at_each_level(n, o) and n not in ("adaptive", "heun")]


@pytest.mark.parametrize(("name", "options"), ONCE)
@given(steps=st.integers(1, 120), spacing=st.sampled_from(get_args(Spacing)))
def test_n_steps_cost_exactly_n_evaluations(name, options, steps, spacing):
    seen = []

    def counted(x_t, logsnr):
        seen.append(logsnr)
        return bounded(x_t, logsnr)

    grid = spaced(ScaledLinearBeta(steps=120), steps, spacing)
    out = bind_options(name, options)(counted, normal(2, 3, dtype=torch.float32), grid, NoiseStream([1, 2]))
    assert torch.equal(torch.stack(seen)[:, 0].double(), grid.logsnr[:-1].float().double())
    assert out.isfinite().all() and out.dtype == torch.float32


@every_variant
@given(
    gaps=st.lists(st.floats(0.01, 20), min_size=1, max_size=8),
    first=st.floats(-30, 0),
    pure=st.booleans(),
    clean=st.booleans(),
)
def test_irregular_grids_stay_finite(name, options, gaps, first, pure, clean):
    levels = torch.tensor([first, *gaps], dtype=torch.float64).cumsum(0).tolist()
    grid = grid_of(*([-INF] if pure else []), *levels, *([INF] if clean else []))
    out = bind_options(name, options)(bounded, normal(2, 3), grid, NoiseStream([1, 2]))
    assert out.isfinite().all()


@every_variant
@pytest.mark.parametrize("first", [-INF, -5.0])
def test_one_step_to_clean_data_is_the_denoiser(name, options, first):
    x = normal(2, 3, 4)
    out = bind_options(name, options)(bounded, x, grid_of(first, INF), None)
    assert torch.equal(out, bounded(x, None).x0)


@every_variant
@pytest.mark.parametrize("last", [INF, 6.0])
def test_an_image_is_the_same_in_any_batch(name, options, last):
    grid, sample = grid_of(-8.0, -3.0, -1.0, 0.0, 3.0, last), bind_options(name, options)
    seeds, shape = [11, 5, 7, 3], (3, 5, 7)
    together = NoiseStream(seeds)
    batch = sample(bounded, together.normal((4, *shape)), grid, together)
    for i, seed in enumerate(seeds):
        alone = NoiseStream([seed])
        assert torch.equal(batch[i : i + 1], sample(bounded, alone.normal((1, *shape)), grid, alone))


@every_variant
def test_noise_is_drawn_only_where_it_is_used(name, options):
    for last, steps_with_noise in [(INF, 3), (6.0, 4)]:
        noise, expected = NoiseStream([1, 2]), NoiseStream([1, 2])
        bind_options(name, options)(bounded, normal(2, 3), grid_of(-8.0, -3.0, -1.0, 3.0, last), noise)
        if name in ("ancestral", "euler_ancestral") or options.get("eta", 0) > 0 or name in EXTRA:
            for _ in range(steps_with_noise * (1 + at_each_level(name, options))):
                expected.normal((2, 3))
        assert all(torch.equal(a, b) for a, b in zip(noise.state(), expected.state(), strict=True))


@every_variant
def test_the_start_is_not_edited_and_each_step_is_reported(name, options):
    x, seen = normal(2, 3), []
    before = x.clone()
    grid = grid_of(-8.0, -1.0, 3.0, INF)
    out = bind_options(name, options)(bounded, x, grid, NoiseStream([1, 2]), on_step=seen.append)
    assert torch.equal(x, before)
    assert [(s.index, s.steps, s.logsnr) for s in seen] == [(0, 3, -8.0), (1, 3, -1.0), (2, 3, 3.0)]
    assert torch.equal(seen[0].x_t, before) and torch.equal(seen[-1].x0_hat, out)
    assert all(torch.equal(bounded(s.x_t, None).x0, s.x0_hat) for s in seen)


@every_variant
def test_a_watcher_cancels_by_raising(name, options):
    def cancel(step):
        if step.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bind_options(name, options)(
            bounded, normal(1, 3), grid_of(-8.0, -1.0, 3.0, INF), NoiseStream([1]), on_step=cancel
        )


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, o in VARIANTS if n != "adaptive"])  # it reads its errors
def test_every_tensor_stays_where_the_latent_is(name, options, without_shape_checks):
    grid, sample = grid_of(-8.0, -1.0, 3.0, INF), bind_options(name, options)
    with FakeTensorMode():  # refuses operations across devices and reads of a tensor's numbers
        x = torch.empty(2, 3, device="cuda")
        out = sample(lambda x_t, logsnr: Denoised(x_t * logsnr[:, None].sigmoid()), x, grid, NoiseStream([1, 2]))
    assert out.device.type == "cuda" and out.dtype == torch.float32 and out.shape == (2, 3)


@pytest.mark.parametrize("levels", LEVELS)
def test_ddim_with_eta_one_is_ancestral_sampling(levels):
    x_t, x0_hat, z = normal(3, 2, 5), normal(3, 2, 5, seed=1), normal(3, 2, 5, seed=2)
    ours = ddim.step(x_t, x0_hat, *levels, eta=1.0, z=z)
    torch.testing.assert_close(ours, ancestral.step(x_t, x0_hat, *levels, z=z), rtol=1e-11, atol=1e-11)


def test_whole_ddim_run_with_eta_one_is_the_ancestral_run():
    x, grid = normal(2, 3), grid_of(-9.0, -4.0, -1.0, 0.0, 2.0, INF)
    one = ddim.sample(bounded, x, grid, NoiseStream([1, 2]), eta=1.0)
    torch.testing.assert_close(one, ancestral.sample(bounded, x, grid, NoiseStream([1, 2])), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("t", "s"), LEVELS[1:])
def test_ddim_is_dpm_solver_one(t, s):
    def amplitudes(level):
        return math.sqrt(1 / (1 + math.exp(-level))), math.sqrt(1 / (1 + math.exp(level)))

    (a_t, sigma_t), (a_s, sigma_s) = amplitudes(t), amplitudes(s)
    h = math.log(a_s / sigma_s) - math.log(a_t / sigma_t)
    x_t, x0_hat = normal(3, 4), normal(3, 4, seed=1)
    solver = sigma_s / sigma_t * x_t - a_s * math.expm1(-h) * x0_hat
    torch.testing.assert_close(ddim.step(x_t, x0_hat, t, s), solver, rtol=1e-12, atol=1e-13)
    assert torch.equal(dpm_solver.step(x_t, x0_hat, t, s), ddim.step(x_t, x0_hat, t, s))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), LEVELS[1:])
def test_ddim_step_as_the_paper_writes_it(eta, t, s):
    bar_t, bar_s = (1 / (1 + math.exp(-level)) for level in (t, s))
    spread = eta * math.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
    x_t, x0_hat, z = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    eps = (x_t - math.sqrt(bar_t) * x0_hat) / math.sqrt(1 - bar_t)
    paper = math.sqrt(bar_s) * x0_hat + math.sqrt(1 - bar_s - spread**2) * eps + spread * z
    torch.testing.assert_close(ddim.step(x_t, x0_hat, t, s, eta=eta, z=z), paper, rtol=1e-9, atol=1e-9)


def test_dpm_solver_is_exact_where_the_estimate_is_a_line_in_the_level():
    """The x0 line c + d (lambda - lambda_t): the second-order step replaces exp(-h) h d by its own rule, no more."""
    t, s, r = 0.4, 1.0, -0.5
    h, h_before = (s - t) / 2, (t - r) / 2
    c, d = normal(2, 3), normal(2, 3, seed=1)
    found = dpm_solver.step(torch.zeros(2, 3).double(), c, t, s, previous=dpm_solver.Estimate(c - h_before * d, r))
    amplitude = math.sqrt(1 / (1 + math.exp(-s)))
    torch.testing.assert_close(found, amplitude * -math.expm1(-h) * (c + h / 2 * d))


@pytest.mark.parametrize("step", [ddim.step, ancestral.step, dpm_solver.step])
def test_each_image_may_have_its_own_level(step):
    t, s = torch.tensor([-3.0, 0.5, 2.0]).double(), torch.tensor([-1.0, INF, 2.5]).double()
    x_t, x0_hat = normal(3, 2, 4), normal(3, 2, 4, seed=1)
    rows = [step(x_t[[i]], x0_hat[[i]], t[i].item(), s[i].item()) for i in range(3)]
    torch.testing.assert_close(step(x_t, x0_hat, t, s), torch.cat(rows))


def test_coefficients_are_double_whatever_the_latent():
    level = exact(0.1)
    assert level.dtype == torch.float64 and level.ndim == 0
    fine = ddim.step(normal(1, 4), normal(1, 4, seed=1), 5.0, 5.00001)
    coarse = ddim.step(normal(1, 4).float(), normal(1, 4, seed=1).float(), 5.0, 5.00001)
    torch.testing.assert_close(coarse.double(), fine, rtol=1e-6, atol=1e-6)


def test_iterated_inversion_is_exact():
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    data = GaussianMixture(half, torch.tensor([[-0.5, 0.2], [0.4, -0.6]], dtype=torch.float64), half)
    denoise = lambda x_t, logsnr: Denoised(data.denoise(x_t, logsnr))  # noqa: E731
    x0 = normal(3, 2)
    for grid in (grid_of(-6.0, -3.0, -1.0, 0.0, 2.0, 5.0), grid_of(-6.0, -3.0, -1.0, 0.0, 1.0, INF)):
        errors = []
        for iterations in (1, 4, 400):
            noise = ddim.invert(denoise, x0, grid, iterations=iterations)
            errors.append((ddim.sample(denoise, noise, grid) - x0).abs().max().item())
        assert errors[1] < 0.5 * errors[0] and errors[2] < 1e-9


def test_inversion_costs_and_reports_like_sampling():
    calls, seen = [], []

    def counted(x_t, logsnr):
        calls.append(logsnr[0].item())
        return bounded(x_t, logsnr)

    x = ddim.invert(counted, normal(1, 3), grid_of(-6.0, 0.0, 3.0), iterations=2, on_step=seen.append)
    assert calls == [0.0, 0.0, -6.0, -6.0]
    assert [(s.index, s.logsnr) for s in seen] == [(0, 0.0), (1, -6.0)] and seen[-1].x_t is x


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dimm", {}, "did you mean 'ddim'"),
        ("zzz", {}, "known: adaptive, ancestral, ddim, dpm_solver, euler, euler_ancestral, heun, langevin"),
        ("ddim", {"etta": 0.0}, "did you mean 'eta'"),
        ("dpm_solver", {"eta": 1.5}, "eta: 1.5 is not"),
        ("dpm_solver", {"order": 4}, "order: 4 is not possible"),
        ("unipc", {"order": 2.5}, "order: 2.5 is not possible"),
        ("unipc", {"eta": 0.0}, "known: correct, order"),
        ("heun", {"churn": -1}, "churn: -1 is not"),
        ("euler", {"churn_lo": 0.0}, "there is no churn to bound"),
        ("euler", {"churn": 5, "churn_lo": 1.0, "churn_hi": 0.0}, "do not rise"),
        ("adaptive", {"rtol": 0.0, "atol": 0.0}, "negative or both 0"),
        ("ddim", {"on_step": None}, "known: eta"),
        ("ddim", {"eta": 1.5}, r"eta: 1.5 is not a number in \[0, 1\]"),
        ("ddim", {"eta": math.nan}, "eta: nan"),
        ("ddim", {"eta": "abc"}, "option 'eta' is 'abc'; give a number"),
        ("dpm_solver", {"order": None}, "option 'order' is None"),
        ("unipc", {"correct": "no"}, "option 'correct' is 'no'"),
        ("langevin", {"rate": "fast"}, "option 'rate' is 'fast'"),
        ("ancestral", {"variance": "posteriour"}, "variance: 'posteriour' is unknown"),
    ],
)
def test_bad_names_and_options_are_refused_before_sampling(name, options, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        bind_options(name, options)


@pytest.mark.parametrize("run", [ancestral.sample, lambda *args: ddim.sample(*args, eta=0.5)])
def test_missing_noise_is_named(run):
    with pytest.raises(ValueError, match="pass a NoiseStream"):
        run(bounded, normal(1, 2), grid_of(-1.0, 0.0), None)


def test_inversion_refuses_no_iterations():
    with pytest.raises(ValueError, match="iterations: 0 is below 1"):
        ddim.invert(bounded, normal(1, 2), grid_of(-1.0, 0.0), iterations=0)
