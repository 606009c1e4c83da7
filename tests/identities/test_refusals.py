"""What the maths refuses by name: times outside [0, 1], levels that are no number, steps that lead the wrong way."""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ldm.core.gaussian import Gaussian, discretised_log_prob
from ldm.core.ranges import time_within
from ldm.core.rng import NoiseStream
from ldm.guidance import combine
from ldm.nets.gamma import GammaNet, GammaSpec
from ldm.process import conditionals, elbo, hierarchy, paths, prediction, schedule, sde, variance, weights
from ldm.process.exact import GaussianMixture
from ldm.process.piecewise import PiecewiseLogSNR
from ldm.process.zero_terminal import ZeroTerminal
from ldm.samplers import ancestral, ddim, distilled, dpm_solver, heun, langevin, likelihood, unipc

SCHEDULES = [
    schedule.LinearBeta(),
    schedule.ScaledLinearBeta(),
    schedule.Tabulated(betas=(0.1, 0.2)),
    schedule.Cosine(),
    schedule.Sigmoid(),
    schedule.LinearLogSNR(),
    PiecewiseLogSNR(levels=(3.0, 1.0, -4.0)),
    ZeroTerminal(),
    GammaNet(GammaSpec()),
]
WEIGHTS = [
    weights.Elbo(),
    weights.SimpleEps(),
    weights.SimpleV(),
    weights.MinSNR(),
    weights.SoftMinSNR(),
    weights.EDM(),
    weights.SigmoidWeight(),
]
NOT_NOISE, NOT_DATA = "logsnr: -inf is not possible here; .*", "logsnr: inf is not possible here; .*"
CLEANER, SAME, NOISIER = (torch.tensor([level]) for level in (2.0, 1.0, -1.0))
NAN, CLEAN, NOISE = (torch.tensor([level]) for level in (math.nan, math.inf, -math.inf))
X = torch.ones(1, 3)


def known(level):
    """An estimate at a level."""
    return dpm_solver.Estimate(X, level)


@pytest.mark.parametrize("tested", SCHEDULES, ids=lambda s: type(s).__name__)
def test_schedules_refuse_times_outside_and_levels_that_are_none(tested):
    for t, named in ((-0.1, "-0.1"), (1.5, "1.5"), (math.nan, "nan")):
        for ask in (tested, tested.slope):
            with pytest.raises(ValueError, match=rf"^t: {named} is outside \[0, 1\]"):
                ask(torch.tensor([0.5, t]))
    for ask in (tested.inverse, tested.timesteps):
        with pytest.raises(ValueError, match="^logsnr: nan is no level"):
            ask(torch.tensor([0.5, math.nan]))
    beyond, end = (torch.tensor([t], dtype=torch.float64) for t in (1 + 1e-6, 1.0))
    assert torch.equal(tested(beyond), tested(end)) and torch.equal(tested.slope(beyond), tested.slope(end))


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: type(w).__name__)
def test_weights_refuse_levels_that_are_none(weight):
    with pytest.raises(ValueError, match="^logsnr: nan"):
        weight(NAN, torch.tensor([-1.0]))
    if isinstance(weight, weights.Elbo | weights.SigmoidWeight):
        with pytest.raises(ValueError, match=r"^slope: 1 is outside \[-inf, 0\]; a level falls"):
            weight(SAME, torch.tensor([1.0]))


@pytest.mark.parametrize(
    "step",
    [
        lambda s, t: conditionals.q_step(X, s, t),
        lambda s, t: conditionals.q_posterior(X, X, s, t),
        lambda s, t: elbo.denoise_term(X, X, s, t),
        lambda s, t: elbo.denoise_term(X, X, s, t, torch.tensor(0.5)),
        variance.posterior,
        variance.upper,
        variance.analytic_bounds,
        lambda s, t: variance.analytic(torch.tensor([0.5]), s, t),
        lambda s, t: variance.learned_range(X, s, t),
        lambda s, t: hierarchy.diffusion(lambda x, level: x, torch.cat([s, t])),
        lambda s, t: ddim.step(X, X, t, s),
        lambda s, t: ancestral.step(X, X, t, s),
        lambda s, t: dpm_solver.step(X, X, t, s),
        lambda s, t: langevin.predict(X, X, t, s),
        lambda s, t: distilled.landing_x0(X, X, t, s),
        lambda s, t: heun.corrected(X, X, X, X, t.item(), s.item()),
        lambda s, t: unipc.step(X, [dpm_solver.Estimate(X, t)], s.item()),
    ],
)
def test_steps_refuse_levels_in_the_wrong_order(step):
    step(CLEANER, NOISIER)
    for s, t in ((NOISIER, CLEANER), (SAME, SAME), (NAN, SAME), (SAME, NAN)):
        with pytest.raises(ValueError, match="s must be the cleaner level|nan is not finite"):
            step(s, t)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: conditionals.q_sample(X, X, NAN), "logsnr: nan is no level"),
        (lambda: elbo.prior_term(X, NAN), "logsnr: nan is no level"),
        (lambda: elbo.denoise_term(X, X, CLEAN, SAME), "logsnr_s: inf is not finite; .* recon_term"),
        (lambda: elbo.denoise_term(X, X, CLEANER, SAME, torch.tensor(-0.5)), "var: -0.5 is negative"),
        (lambda: elbo.denoise_term_continuous(X, X, SAME, SAME), "slope: 1 is outside"),
        (lambda: elbo.denoise_term_continuous(X, X, NAN, -SAME), "logsnr: nan is no level"),
        (lambda: elbo.first_decoder(X, NOISE), NOT_NOISE + "pure noise says nothing"),
        (lambda: elbo.recon_term(2 * X, Gaussian(X, X), 256), r"x: 2 is outside \[-1.*pixels"),
        (lambda: elbo.ElboTerms(X[0], X[0], X[0]).bits_per_dim(0), "n: 0 dimensions"),
        (lambda: discretised_log_prob(Gaussian(X, X), 2 * X), r"x: 2 is outside \[-1.*pixels"),
        (lambda: Gaussian(X, torch.tensor([[1.0, -2.0, math.nan]])), "var: -2 is negative"),
        (lambda: prediction.to_x0("eps", X, X, NOISE), NOT_NOISE + "use v or x0"),
        (lambda: prediction.to_x0("score", X, X, NOISE), NOT_NOISE + "use v or x0"),
        (lambda: prediction.to_x0("v", X, X, NAN), "logsnr: nan is no level"),
        (lambda: prediction.from_x0("v", X, X, CLEAN), NOT_DATA + "v is undefined at clean data"),
        (lambda: prediction.target("score", X, X, CLEAN), NOT_DATA + "undefined at clean data"),
        (lambda: variance.noise_power(X, X, CLEAN), NOT_DATA + "eps is undefined at clean data"),
        (lambda: sde.to_ve(X, NOISE), NOT_NOISE + "never is pure noise"),
        (lambda: sde.to_vp(X, NAN), "logsnr: nan is no level"),
        (lambda: sde.flow_velocity(X, X, NAN), "logsnr: nan is no level"),
        (lambda: sde.VariancePreserving(schedule=schedule.Cosine()).marginal(2 * SAME), "t: 2 is outside"),
        (lambda: sde.VarianceExploding(schedule=schedule.Cosine()).diffusion_squared(2 * SAME), "t: 2 is outside"),
        (lambda: GaussianMixture(X[0, :1], X, X[:, 0]).sample(2 * SAME, X), r"u: 2 is outside \[0, 1\]"),
        (lambda: ddim.step(X, X, 0.0, 1.0, eta=1.5), r"eta: 1.5 is not a number in \[0, 1\]"),
        (lambda: dpm_solver.step(X, X, 0.0, 1.0, eta=math.nan), r"eta: nan is not a number in \[0, 1\]"),
        (lambda: dpm_solver.step(X, X, 0.0, 1.0, previous=dpm_solver.Estimate(X, 0.5)), "logsnr_s, logsnr_t: 0, 0.5"),
        (lambda: langevin.langevin_step(X, X, torch.tensor([-0.1]), X), "size: -0.1 is negative"),
        (lambda: langevin.signal_to_noise_size(X, X, snr=2.0), r"snr: 2.0 is not a number in \(0, 1\)"),
        (lambda: likelihood.rademacher(NoiseStream([0]), X, 0), "count: 0 probes"),
        (lambda: dpm_solver.step3(X, [known(0.0), known(1.0)], 2.0), "logsnr_s, logsnr_t: 0, 1"),
        (lambda: dpm_solver.step3(X, [known(0.0), known(0.0)], 2.0), "logsnr_s, logsnr_t: 0, 0"),
        (lambda: unipc.step(X, [known(0.0), known(0.0)], 2.0), "logsnr_s, logsnr_t: 0, 0"),
        (lambda: unipc.step(X, [known(0.0), known(1.0)], 2.0), "logsnr_s, logsnr_t: 0, 1"),
        (lambda: combine.extrapolated(math.nan), "scale: nan is not a finite number"),
        (lambda: combine.extrapolated(CLEAN), "scale: inf is not finite"),
    ],
)
def test_what_is_outside_is_refused_by_name(ask, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ask()


def test_where_there_are_no_numbers_tensors_are_taken_as_they_are():
    levels = torch.empty(2, device="meta")
    assert conditionals.q_step(torch.empty(2, 3, device="meta"), levels, levels).mean.shape == (2, 3)
    t, cosine = torch.tensor([[0.2], [0.7]]), schedule.Cosine()
    assert torch.equal(torch.func.vmap(cosine)(t), cosine(t.flatten())[:, None])
    traced = make_fx(lambda t: cosine(t))(t[0])
    assert torch.equal(traced(t[1]), cosine(t[1]))
    compiled = torch.compile(lambda t: 2 * time_within(t), fullgraph=True, backend="eager")
    assert compiled(torch.tensor([0.5, 1.0])).shape == (2,)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda x, y: conditionals.q_sample(x, y, CLEANER), r"eps: shape \(1, 3\), but x0 has \(2, 3\)"),
        (lambda x, y: conditionals.q_sample(x, x, torch.zeros(3)), r"levels: \(3,\) for 2 images"),
        (lambda x, y: conditionals.q_posterior(x, y, CLEANER, SAME), "x_t: shape"),
        (lambda x, y: elbo.denoise_term(x, y, CLEANER, SAME), "x0_hat: shape"),
        (lambda x, y: elbo.denoise_term_continuous(x, y, SAME, -SAME), "x0_hat: shape"),
        (lambda x, y: prediction.to_x0("v", x, y, SAME), "out: shape"),
        (lambda x, y: prediction.from_x0("v", x, y, SAME), "x0: shape"),
        (lambda x, y: prediction.target("v", x, y, SAME), "eps: shape"),
        (lambda x, y: ddim.step(x, y, 0.0, 1.0), "x0_hat: shape"),
        (lambda x, y: ancestral.step(x, x, 0.0, 1.0, z=y), "z: shape"),
        (lambda x, y: dpm_solver.step(x, y, 0.0, 1.0), "x0_hat: shape"),
        (lambda x, y: langevin.langevin_step(x, x, SAME, y), "z: shape"),
        (lambda x, y: langevin.predict(x, y, 0.0, 1.0), "x0_hat: shape"),
        (lambda x, y: distilled.landing_x0(x, y, 0.0, 1.0), "x_s: shape"),
        (lambda x, y: heun.corrected(x, x, x, y, 0.0, 1.0), "x0_s: shape"),
        (lambda x, y: paths.optimal_path(torch.zeros(4, 3), 1), "cost: 4 x 3; a table is square"),
        (
            lambda x, y: dpm_solver.step3(x, [dpm_solver.Estimate(x, 1.0), dpm_solver.Estimate(y, 0.0)], 2.0),
            r"estimates\[1\]: shape",
        ),
        (lambda x, y: unipc.step(x, [dpm_solver.Estimate(y, 0.0)], 1.0), r"estimates\[0\]: shape"),
    ],
)
def test_shapes_that_disagree_are_refused_by_name(ask, message, without_shape_checks):
    """Users have no jaxtyping; one row of noise would else serve all images without a word."""
    with pytest.raises(ValueError, match=f"^{message}"):
        ask(torch.ones(2, 3), torch.ones(1, 3))
