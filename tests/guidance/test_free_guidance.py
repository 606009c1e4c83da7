"""Guidance from two predictions: the identity at neutral strength, closed forms elsewhere."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.denoiser import Denoised, bind
from ldm.guidance.auto import autoguided
from ldm.guidance.combine import contrast_kept, extrapolated, projected
from ldm.guidance.free import classifier_free, on_interval
from ldm.nets.cond import Cond
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim

LEVELS = torch.tensor([-2.0, 0.3, 4.0], dtype=torch.float64)


def conditions(mean, var, rows=3):
    """Data N(mean, var) on every channel: a condition that a closed form can read."""
    return Cond(torch.tensor([[[mean, var]]], dtype=torch.float64).expand(rows, 1, 2))


def gaussian(x_t, logsnr, cond):
    """The exact denoiser of the Gaussian that each row's condition names, with the mean as its variance fraction."""
    mean, var = (cond.tokens[:, 0, i].reshape(-1, 1, 1) for i in (0, 1))
    level = logsnr.reshape(-1, 1, 1)
    a, total = level.sigmoid().sqrt(), level.sigmoid() * var + (-level).sigmoid()
    return Denoised(mean + a * var / total * (x_t - a * mean), mean.expand_as(x_t))


class Counting:
    def __init__(self, denoise=gaussian):
        self.denoise, self.rows = denoise, []

    def __call__(self, x_t, logsnr, *cond):
        self.rows.append(len(x_t))
        return self.denoise(x_t, logsnr, *cond)


CAT, NULL = conditions(2.0, 0.25), conditions(0.5, 1.5)


@pytest.fixture
def x_t():
    return torch.randn(3, 4, 5, dtype=torch.float64)


@pytest.mark.parametrize(("scale", "only"), [(1.0, CAT), (0.0, NULL)])
def test_neutral_scales_are_one_prediction_bit_for_bit_and_cost_one(scale, only, x_t):
    counting = Counting()
    found = classifier_free(counting, CAT, NULL, scale)(x_t, LEVELS)
    expected = gaussian(x_t, LEVELS, only)
    assert torch.equal(found.x0, expected.x0) and torch.equal(found.var_fraction, expected.var_fraction)
    assert counting.rows == [3]


@pytest.mark.parametrize("scale", [0.25, 1.5, 7.5])
def test_guided_score_is_that_of_the_tilted_gaussian(scale, x_t):
    """p_cond^scale p_null^(1 - scale) of two Gaussians is a Gaussian whose precision is the same mixture."""
    a, var_noise = (v.reshape(-1, 1, 1) for v in (LEVELS.sigmoid().sqrt(), (-LEVELS).sigmoid()))
    total_cat, total_null = a**2 * 0.25 + var_noise, a**2 * 1.5 + var_noise
    precision = scale / total_cat + (1 - scale) / total_null
    mean = (scale * a * 2.0 / total_cat + (1 - scale) * a * 0.5 / total_null) / precision
    score = -precision * (x_t - mean)
    found = classifier_free(gaussian, CAT, NULL, scale)(x_t, LEVELS).x0
    torch.testing.assert_close(found, (x_t + var_noise * score) / a, rtol=1e-12, atol=1e-12)  # Tweedie


def test_guidance_is_one_call_and_keeps_the_variance_of_the_condition(x_t):
    counting = Counting()
    found = classifier_free(counting, CAT, NULL, 3.0)(x_t, LEVELS)
    assert counting.rows == [6]
    assert torch.equal(found.var_fraction, torch.full_like(x_t, 2.0))
    silent = classifier_free(lambda x, level, cond: Denoised(gaussian(x, level, cond).x0), CAT, NULL, 3.0)
    assert silent(x_t, LEVELS).var_fraction is None


def test_guidance_reads_no_number_back_from_the_device(without_shape_checks):
    with FakeTensorMode():
        cond, null = (Cond(torch.empty(3, 1, 2, device="cuda")) for _ in range(2))
        guided = classifier_free(gaussian, cond, null, 3.0, contrast_kept(projected(3.0, norm=2.5, momentum=-0.5), 0.7))
        out = guided(torch.empty(3, 4, 5, device="cuda"), torch.empty(3, device="cuda"))
    assert out.x0.device.type == "cuda"


def test_a_negative_prompt_equal_to_the_prompt_leaves_it_alone(x_t):
    found = classifier_free(gaussian, CAT, CAT, 7.5)(x_t, LEVELS).x0
    torch.testing.assert_close(found, gaussian(x_t, LEVELS, CAT).x0, rtol=0, atol=1e-12)


def test_each_image_is_guided_by_its_own_row(x_t):
    cond = Cond(torch.tensor([[[2.0, 0.25]], [[-1.0, 1.0]], [[0.0, 3.0]]], dtype=torch.float64))
    batch = classifier_free(gaussian, cond, NULL, 4.0)(x_t, LEVELS).x0
    for i in range(3):
        row, null = cond.map(lambda v, i=i: v[[i]]), NULL.map(lambda v: v[:1])
        assert torch.equal(batch[[i]], classifier_free(gaussian, row, null, 4.0)(x_t[[i]], LEVELS[[i]]).x0)


def test_guidance_moves_samples_away_from_the_null(x_t):
    grid = TimeGrid(torch.linspace(-8, 8, 60, dtype=torch.float64))
    ends = [ddim.sample(classifier_free(gaussian, CAT, NULL, s), x_t, grid).mean() for s in (0.0, 1.0, 3.0)]
    assert ends[0] < ends[1] < ends[2]


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_senseless_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale: .* is not a number >= 0"):
        classifier_free(gaussian, CAT, NULL, scale)


def test_rows_must_match():
    with pytest.raises(ValueError, match="null: 1 rows beside 3 of cond"):
        classifier_free(gaussian, CAT, conditions(0.0, 1.0, rows=1), 2.0)


GUIDED, PLAIN = classifier_free(gaussian, CAT, NULL, 6.0), bind(gaussian, CAT)


def both(x_t):
    return gaussian(x_t, LEVELS, CAT).x0, gaussian(x_t, LEVELS, NULL).x0


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_projection_that_keeps_everything_is_extrapolation(scale, x_t):
    torch.testing.assert_close(projected(scale, parallel=1.0)(*both(x_t)), extrapolated(scale)(*both(x_t)))


def test_projection_leaves_the_part_along_the_estimate_alone(x_t):
    strong, weak = both(x_t)
    change = projected(5.0)(strong, weak) - strong
    along = [(change * s).flatten(1).sum(1) for s in (strong,)]
    torch.testing.assert_close(along[0], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10)
    half = projected(5.0, parallel=0.5)(strong, weak) - strong
    whole = extrapolated(5.0)(strong, weak) - strong
    torch.testing.assert_close(half, (whole + change) / 2)


def test_projection_bounds_the_length_of_the_difference(x_t):
    strong, weak = both(x_t)
    for norm in (0.1, 1e9):
        change = projected(2.0, parallel=1.0, norm=norm)(strong, weak) - strong
        length = (strong - weak).flatten(1).norm(dim=1)
        torch.testing.assert_close(change.flatten(1).norm(dim=1), length.clamp(max=norm))


def test_momentum_adds_the_former_sum(x_t):
    rule = projected(2.0, parallel=1.0, momentum=-0.5)
    strong, weak = both(x_t)
    first, second, third = (rule(strong, weak) - strong for _ in range(3))
    torch.testing.assert_close(first, strong - weak)
    torch.testing.assert_close(second, 0.5 * (strong - weak))
    torch.testing.assert_close(third, 0.75 * (strong - weak))  # of the sum so far, not of the last difference


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": -0.1}, "parallel: -0.1 is outside"),
        ({"norm": 0.0}, "norm: 0.0 is not above 0"),
        ({"momentum": -1.0}, "momentum: -1.0 is outside"),
    ],
)
def test_projection_refuses_what_it_cannot_mean(options, message):
    with pytest.raises(ValueError, match=message):
        projected(2.0, **options)


def test_keeping_no_contrast_is_the_rule_itself():
    rule = extrapolated(6.0)
    assert contrast_kept(rule, 0.0) is rule


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_contrast_lies_at_phi_between_guided_and_plain(phi, x_t):
    found = classifier_free(gaussian, CAT, NULL, 6.0, contrast_kept(extrapolated(6.0), phi))(x_t, LEVELS)
    guided, plain = GUIDED(x_t, LEVELS), PLAIN(x_t, LEVELS)
    std, std_guided, std_plain = (d.x0.flatten(1).std(1) for d in (found, guided, plain))
    torch.testing.assert_close(std, (1 - phi) * std_guided + phi * std_plain)
    ratio = found.x0 / guided.x0
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))  # one factor for all channels
    assert torch.equal(found.var_fraction, guided.var_fraction)


def test_the_contrast_of_a_constant_picture_stays_finite():
    flat = torch.full((3, 4, 5), 0.5).double()
    assert torch.equal(contrast_kept(lambda strong, weak: strong, 1.0)(flat, flat), flat)


@pytest.mark.parametrize("phi", [-0.1, 1.1, math.nan])
def test_contrast_refuses_strengths_outside_its_range(phi):
    with pytest.raises(ValueError, match=r"phi: .* is outside \[0, 1\]"):
        contrast_kept(extrapolated(2.0), phi)


def test_a_scale_for_each_image(x_t):
    strong, weak = both(x_t)
    scales = torch.tensor([0.0, 1.0, 2.5]).double()
    rows = [extrapolated(s.item())(strong[[i]], weak[[i]]) for i, s in enumerate(scales)]
    torch.testing.assert_close(extrapolated(scales)(strong, weak), torch.cat(rows))


def test_autoguidance_undoes_errors_that_the_weak_model_has_twice(x_t):
    """True x0 plus an error e in the strong model and 2 e in the weak one: scale 2 is exact."""
    error = torch.linspace(-1, 1, 5).double()
    strong = lambda x, level: Denoised(PLAIN(x, level).x0 + error, torch.ones_like(x))  # noqa: E731
    weak = lambda x, level: Denoised(PLAIN(x, level).x0 + 2 * error)  # noqa: E731
    found = autoguided(strong, weak, 2.0)(x_t, LEVELS)
    torch.testing.assert_close(found.x0, PLAIN(x_t, LEVELS).x0)
    assert found.var_fraction is not None
    assert autoguided(strong, weak, 1.0) is strong


@pytest.mark.parametrize("scale", [0.9, -1.0, math.inf, math.nan])
def test_autoguidance_refuses_scales_below_one(scale):
    with pytest.raises(ValueError, match="scale: .* is not a number >= 1"):
        autoguided(PLAIN, PLAIN, scale)


def test_guidances_compose(x_t):
    """Auto inside of an interval around classifier-free: each is a denoiser, so each takes the others."""
    inner = on_interval(GUIDED, PLAIN, -1.0, 2.0)
    found = autoguided(inner, lambda x, level: Denoised(torch.zeros_like(x)), 1.5)(x_t, LEVELS).x0
    torch.testing.assert_close(found, 1.5 * inner(x_t, LEVELS).x0)


def test_on_interval_evaluates_only_what_it_needs(x_t):
    guided, plain = Counting(GUIDED), Counting(PLAIN)
    denoise = on_interval(guided, plain, -1.0, 2.0)
    outside, inside = torch.full((3,), -1.5).double(), torch.full((3,), 2.0).double()
    assert torch.equal(denoise(x_t, outside).x0, PLAIN(x_t, outside).x0) and guided.rows == []
    assert torch.equal(denoise(x_t, inside).x0, GUIDED(x_t, inside).x0) and plain.rows == [3]


def test_on_interval_of_mixed_levels_decides_for_each_image(x_t):
    found = on_interval(GUIDED, PLAIN, -1.0, 2.0)(x_t, LEVELS)
    assert torch.equal(found.x0[1], GUIDED(x_t, LEVELS).x0[1])
    assert torch.equal(found.x0[[0, 2]], PLAIN(x_t, LEVELS).x0[[0, 2]])
    assert torch.equal(found.var_fraction, torch.full_like(x_t, 2.0))


def test_on_interval_of_the_whole_axis_is_guidance_and_of_an_empty_one_is_refused(x_t):
    everywhere = on_interval(GUIDED, PLAIN, -math.inf, math.inf)
    assert torch.equal(everywhere(x_t, LEVELS).x0, GUIDED(x_t, LEVELS).x0)
    with pytest.raises(ValueError, match="lo, hi: 2.0, -1.0 do not rise"):
        on_interval(GUIDED, PLAIN, 2.0, -1.0)
