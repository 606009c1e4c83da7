"""Loss weights mean the same loss whatever the network predicts, and are finite where training needs them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.process.conditionals import q_sample
from ldm.process.elbo import denoise_term_continuous
from ldm.process.prediction import from_x0, target
from ldm.process.schedule import Cosine, LinearLogSNR
from ldm.process.weights import EDM, Elbo, MinSNR, SigmoidWeight, SimpleEps, SimpleV, SoftMinSNR

ALL = [Elbo(), SimpleEps(), SimpleV(), MinSNR(), SoftMinSNR(), EDM(sigma_data=0.5), SigmoidWeight()]
LEVEL = st.floats(-10, 10)


def weigh(weight, logsnr, slope=-1.0):
    level = torch.as_tensor(logsnr, dtype=torch.float64).reshape(-1)
    return weight(level, torch.full_like(level, slope))


def kind_of(weight):
    return weight.kind


def squared_errors(logsnr):
    """|error|^2 of eps, x0 and v of one arbitrary estimate."""
    x0, eps, guess = (torch.randn(1, 8, dtype=torch.float64) for _ in range(3))
    level = torch.tensor([logsnr], dtype=torch.float64)
    x_t = q_sample(x0, eps, level)
    return {
        kind: (from_x0(kind, guess, x_t, level) - target(kind, x0, eps, level)).square().sum().item()
        for kind in ("x0", "eps", "v", "score")
    }


@given(LEVEL, st.floats(0.5, 20))
def test_min_snr_is_one_loss_in_every_parameterisation(logsnr, gamma):
    errors, snr = squared_errors(logsnr), math.exp(logsnr)
    on_x0 = weigh(MinSNR(gamma=gamma), logsnr).item() * errors["x0"]
    assert min(snr, gamma) / snr * errors["eps"] == pytest.approx(on_x0, rel=1e-10)
    assert min(snr, gamma) / (snr + 1) * errors["v"] == pytest.approx(on_x0, rel=1e-10)


@given(LEVEL)
def test_the_simple_weights_are_plain_errors(logsnr):
    errors = squared_errors(logsnr)
    assert weigh(SimpleEps(), logsnr).item() * errors["x0"] == pytest.approx(errors["eps"], rel=1e-10)
    assert weigh(SimpleV(), logsnr).item() * errors["x0"] == pytest.approx(errors["v"], rel=1e-10)


@given(LEVEL, st.floats(-50, -0.1))
def test_elbo_is_the_continuous_term_of_the_bound(logsnr, slope):
    x0, x0_hat = torch.randn(1, 6, dtype=torch.float64), torch.randn(1, 6, dtype=torch.float64)
    level, slopes = (torch.tensor([value], dtype=torch.float64) for value in (logsnr, slope))
    term = denoise_term_continuous(x0, x0_hat, level, slopes)
    weighted = weigh(Elbo(), logsnr, slope) * (x0 - x0_hat).square().sum()
    assert torch.allclose(weighted, term, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("schedule", [Cosine(), LinearLogSNR()], ids=kind_of)
def test_elbo_is_minus_half_the_derivative_of_snr(schedule):
    t = torch.rand(50, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(schedule(t).exp().sum(), t)
    weight = Elbo()(schedule(t), schedule.slope(t)).detach()
    assert torch.allclose(weight, -0.5 * derivative, rtol=1e-10, atol=1e-14)


@given(LEVEL, st.floats(0.1, 50))
def test_soft_min_snr_lies_below_both_branches_and_touches_them_at_the_ends(logsnr, gamma):
    soft, hard = weigh(SoftMinSNR(gamma=gamma), logsnr).item(), weigh(MinSNR(gamma=gamma), logsnr).item()
    snr = math.exp(logsnr)
    assert soft == pytest.approx(snr * gamma / (snr + gamma), rel=1e-12)
    assert hard / 2 <= soft * (1 + 1e-12) and soft <= hard * (1 + 1e-12)


@given(LEVEL, st.floats(-4, 4))
def test_sigmoid_weight_is_the_weighted_bound_on_the_noise_error(logsnr, bias):
    expected = 0.5 * math.exp(logsnr) / (1 + math.exp(logsnr - bias)) * 3.0
    assert weigh(SigmoidWeight(bias=bias), logsnr, slope=-3.0).item() == pytest.approx(expected, rel=1e-12)
    soft = weigh(SoftMinSNR(gamma=math.exp(bias)), logsnr).item()
    assert weigh(SigmoidWeight(bias=bias), logsnr, slope=-2.0).item() == pytest.approx(soft, rel=1e-12)


@given(LEVEL, st.floats(0.1, 3))
def test_edm_is_the_published_weight(logsnr, sigma_data):
    sigma = math.exp(-logsnr / 2)
    expected = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    assert weigh(EDM(sigma_data=sigma_data), logsnr).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", ALL, ids=kind_of)
def test_weights_are_positive_and_precise_in_float32_from_minus_20_to_20(weight):
    level = torch.linspace(-20, 20, 81)
    single, double = (weight(x, torch.full_like(x, -1.0)) for x in (level, level.double()))
    assert single.dtype == torch.float32 and (single > 0).all() and single.isfinite().all()
    assert torch.allclose(single.double(), double, rtol=1e-5)


@pytest.mark.parametrize(
    ("weight", "field"),
    [(MinSNR(), "gamma"), (SoftMinSNR(), "gamma"), (EDM(), "sigma_data")],
    ids=["min", "soft", "edm"],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_bad_settings_are_refused(weight, field, value):
    with pytest.raises(ValueError, match=field):
        replace(weight, **{field: value})
