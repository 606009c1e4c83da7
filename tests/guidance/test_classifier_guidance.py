"""Guidance by a classifier: Bayes' rule in closed form, and the network that learns such a classifier."""

import math

import pytest
import torch

from ldm.denoiser import Denoised
from ldm.guidance.classifier import classifier_guided
from ldm.guidance.free import classifier_free, on_interval
from ldm.nets.classifier import NoisyClassifier, NoisyClassifierSpec, log_prob_of
from ldm.nets.cond import Cond
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim

LEVELS = torch.tensor([-9.0, -2.0, 0.3, 4.0], dtype=torch.float64)
SPEC = NoisyClassifierSpec(classes=3, in_channels=4, channels=16, norm_groups=8, blocks=1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


WEIGHTS, MEANS, VARIANCES = f64(0.3, 0.7), f64([-1.5, 0.5], [1.0, -0.25]), f64([0.3, 0.5], [0.1, 1.0])
MIXTURE = GaussianMixture(WEIGHTS, MEANS, VARIANCES)
COMPONENTS = [GaussianMixture(f64(1.0), MEANS[[k]], VARIANCES[[k]]) for k in (0, 1)]


def plain(x_t, logsnr):
    return Denoised(MIXTURE.denoise(x_t, logsnr), x_t.sigmoid())


def log_joint(x_t, logsnr):
    return torch.stack([w.log() + c.log_prob(x_t, logsnr) for w, c in zip(WEIGHTS, COMPONENTS, strict=True)], dim=1)


def log_prob_of_component(k):
    """log p(component k | x_t), exactly."""
    return lambda x_t, logsnr: log_joint(x_t, logsnr).log_softmax(1)[:, k]


@pytest.fixture
def x_t():
    return torch.randn(4, 2, dtype=torch.float64)


@pytest.mark.parametrize("k", [0, 1])
def test_scale_one_is_the_conditional_denoiser(k, x_t):
    found = classifier_guided(plain, log_prob_of_component(k), 1.0)(x_t, LEVELS)
    torch.testing.assert_close(found.x0, COMPONENTS[k].denoise(x_t, LEVELS), rtol=1e-12, atol=1e-12)
    assert torch.equal(found.var_fraction, x_t.sigmoid())


def test_scale_zero_is_the_denoiser_itself():
    assert classifier_guided(plain, log_prob_of_component(0), 0.0) is plain


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_guided_score_is_the_sum_of_the_lecture(scale, x_t):
    level = LEVELS[:, None]
    found = classifier_guided(plain, log_prob_of_component(1), scale)(x_t, LEVELS).x0
    score = (level.sigmoid().sqrt() * found - x_t) / (-level).sigmoid()
    bayes = COMPONENTS[1].score(x_t, LEVELS) - MIXTURE.score(x_t, LEVELS)
    torch.testing.assert_close(score, MIXTURE.score(x_t, LEVELS) + scale * bayes, rtol=1e-12, atol=1e-12)


def test_guided_samples_are_those_of_the_component(x_t):
    grid = TimeGrid(torch.linspace(-8, 8, 40, dtype=torch.float64))
    guided = ddim.sample(classifier_guided(plain, log_prob_of_component(0), 1.0), x_t, grid)
    component = ddim.sample(lambda x, logsnr: Denoised(COMPONENTS[0].denoise(x, logsnr)), x_t, grid)
    torch.testing.assert_close(guided, component, rtol=1e-12, atol=1e-12)


def test_guidance_is_added_to_classifier_free_guidance(x_t):
    def conditional(x, logsnr, cond):
        return Denoised(MIXTURE.denoise(x, logsnr) + cond.tokens[:, 0])

    cond, null = (Cond(torch.full((4, 1, 2), value, dtype=torch.float64)) for value in (0.5, 0.1))
    free = classifier_free(conditional, cond, null, 3.0)
    both = classifier_guided(free, log_prob_of_component(0), 2.0)(x_t, LEVELS).x0
    alone = classifier_guided(plain, log_prob_of_component(0), 2.0)(x_t, LEVELS).x0
    torch.testing.assert_close(both - free(x_t, LEVELS).x0, alone - plain(x_t, LEVELS).x0, rtol=1e-12, atol=1e-12)
    limited = on_interval(classifier_guided(free, log_prob_of_component(0), 2.0), free, -5.0, math.inf)
    assert torch.equal(limited(x_t, LEVELS).x0[:1], free(x_t, LEVELS).x0[:1])


def test_both_ends_of_the_axis_are_finite_and_without_guidance():
    x, ends = f64([0.3, -0.2], [0.3, -0.2]), f64(-math.inf, math.inf)
    found = classifier_guided(plain, log_prob_of_component(0), 2.0)(x, ends).x0
    torch.testing.assert_close(found, MIXTURE.denoise(x, ends), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_guidance_works_where_sampling_runs(mode, x_t):
    """With a network, whose convolutions keep their input for the gradient."""
    net = randomised(NoisyClassifier(SPEC))
    steer = classifier_guided(lambda x, level: Denoised(x), log_prob_of(net, torch.tensor([0, 2])), 2.0)
    x, level = torch.randn(2, 4, 8, 8), torch.tensor([0.5, -1.0])
    expected = steer(x, level).x0
    with mode():
        found = steer(x.clone(), level.clone()).x0
    torch.testing.assert_close(found, expected)
    assert (found - x).abs().max() > 1e-5 and not found.requires_grad


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_senseless_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale: .* is not a number >= 0"):
        classifier_guided(plain, log_prob_of_component(0), scale)


def test_a_classifier_without_gradient_is_named(x_t):
    guided = classifier_guided(plain, lambda x, logsnr: torch.zeros(4, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match="log_prob: it carries no gradient"):
        guided(x_t, LEVELS)


def randomised(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def test_new_classifier_finds_all_classes_equally_likely():
    net = NoisyClassifier(SPEC).eval()
    log_prob = log_prob_of(net, torch.tensor([0, 1, 2]))
    found = log_prob(torch.randn(3, 4, 8, 8), torch.tensor([-3.0, 0.0, 5.0]))
    torch.testing.assert_close(found, torch.full((3,), -math.log(3)))


def test_log_prob_is_that_of_each_image_s_own_label():
    net, x, level = randomised(NoisyClassifier(SPEC)), torch.randn(3, 4, 8, 8), torch.tensor([-3.0, 0.0, 5.0])
    labels = torch.tensor([2, 0, 1])
    table = net(x, level).log_softmax(1)
    assert table.std() > 0.01
    torch.testing.assert_close(log_prob_of(net, labels)(x, level), table[torch.arange(3), labels])
    with pytest.raises(ValueError, match="labels: 3 for 2 images"):
        log_prob_of(net, labels)(x[:2], level[:2])


def test_classifier_is_told_the_level_and_stands_its_ends():
    net, x = randomised(NoisyClassifier(SPEC)), torch.randn(1, 4, 8, 8).expand(4, 4, 8, 8)
    logits = net(x, torch.tensor([-math.inf, -20.0, 0.0, math.inf]))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-6)  # rows of one batch may be rounded differently
    assert (logits[1] - logits[2]).abs().max() > 1e-3 and (logits[2] - logits[3]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 1}, "classifier.classes is 1; must be at least 2"),
        ({"channels": 15}, "classifier.channels is 15; must be even"),
        ({"norm_groups": 7}, r"classifier.norm_groups is 7; must be a divisor of every width, here \(16, 32\)"),
        ({"mult": ()}, r"classifier.mult is \(\)"),
        ({"dropout": 1.0}, r"classifier.dropout is 1.0; must be in \[0, 1\)"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    fields = {"classes": 3, "channels": 16, "norm_groups": 8} | change
    with pytest.raises(ValueError, match=message):
        NoisyClassifierSpec(**fields)


def test_inputs_that_do_not_fit_are_named():
    net, level = NoisyClassifier(SPEC), torch.zeros(1)
    with pytest.raises(ValueError, match="x has 3 channels; classifier.in_channels is 4"):
        net(torch.zeros(1, 3, 8, 8), level)
    with pytest.raises(ValueError, match="x is 7x8; height and width must be multiples of 2"):
        net(torch.zeros(1, 4, 7, 8), level)
