"""The denoiser as a classifier, with the exact denoisers of two classes whose true posterior is known."""

import math

import pytest
import torch

from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.evaluation.which_caption import CaptionScores, which_caption
from ldm.nets.cond import Cond
from ldm.process.exact import GaussianMixture
from ldm.process.schedule import LinearLogSNR
from ldm.process.weights import SimpleEps

SCHEDULE = LinearLogSNR(logsnr_min=-9.0, logsnr_max=9.0)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


WORLDS = (
    GaussianMixture(w=doubles(0.5, 0.5), mu=doubles([-1.0, 0.0], [0.2, 1.0]), var=doubles(0.1, 0.2)),
    GaussianMixture(w=doubles(0.5, 0.5), mu=doubles([1.0, 0.0], [0.2, -1.0]), var=doubles(0.2, 0.1)),
)


def named(*classes):
    """Conditions that name classes, one row each."""
    return Cond(tokens=doubles(*map(float, classes)).reshape(-1, 1, 1))


def conditional(x_t, logsnr, cond):
    """The exact denoiser of the class in each row."""
    both = torch.stack([world.denoise(x_t, logsnr) for world in WORLDS])
    return Denoised(both[cond.tokens[:, 0, 0].long(), torch.arange(len(x_t))])


def drawn(world, n):
    noise = NoiseStream([7])
    return world.sample(noise.uniform((1, n))[0].double(), noise.normal((1, n, 2))[0].double())


def scores(x0, draws=64, **options):
    noise = NoiseStream(range(len(x0)))
    return which_caption(conditional, x0, [named(0), named(1)], SCHEDULE, noise, draws=draws, **options)


@pytest.mark.parametrize("weight", [None, SimpleEps()], ids=["elbo", "eps"])
@pytest.mark.parametrize("right", [0, 1])
def test_the_right_caption_wins_where_the_classes_are_apart(right, weight):
    centres = WORLDS[right].mu.repeat(4, 1)
    found = scores(centres, draws=200, weight=weight)
    assert (found.best == right).all()
    assert (found.behind[:, right] == 0).all() and (found.behind[:, 1 - right] > 3 * found.error[:, 1 - right]).all()


def test_it_decides_as_the_true_posterior_does_wherever_that_is_clear():
    x0 = torch.cat([drawn(world, 100) for world in WORLDS])
    clean = torch.full((200,), math.inf, dtype=torch.float64)
    log_odds = WORLDS[0].log_prob(x0, clean) - WORLDS[1].log_prob(x0, clean)
    found = scores(x0, draws=128)
    clear = log_odds.abs() > 3
    assert clear.sum() > 80
    assert ((found.best == 0) == (log_odds > 0))[clear].all()
    off = (found.mean[:, 1] - found.mean[:, 0] - log_odds)[clear]
    for signs in (torch.ones_like(off), log_odds[clear].sign()):  # neither an offset nor another unit than nats
        assert abs((signs * off).mean()) < 4 * off.std() / clear.sum() ** 0.5  # the bound is tight for exact denoisers
    assert (found.probability[clear].argmax(1) == found.best[clear]).all()
    assert torch.allclose(found.probability.sum(1), torch.ones(200, dtype=torch.float64))


def test_common_noise_makes_the_difference_steadier_than_the_scores():
    found = scores(drawn(WORLDS[0], 50))
    apart = found.draws.std(2).mean()
    assert found.error.max(1).values.mean() * 8 < apart  # 8 = sqrt(64): per draw


def test_the_same_caption_twice_is_exactly_level_and_rows_may_be_given_for_each_picture():
    x0 = drawn(WORLDS[0], 4)
    same = which_caption(conditional, x0, [named(1), named(1, 1, 1, 1)], SCHEDULE, NoiseStream(range(4)), draws=5)
    assert torch.equal(same.draws[:, 0], same.draws[:, 1]) and (same.behind == 0).all()


def test_a_pictures_scores_do_not_depend_on_its_batch():
    x0 = drawn(WORLDS[0], 3)
    alone = which_caption(conditional, x0[2:], [named(0), named(1)], SCHEDULE, NoiseStream([2]), draws=8)
    assert torch.allclose(alone.draws, scores(x0, draws=8).draws[2:], rtol=1e-12)


def test_nothing_to_choose_from_is_refused():
    x0, noise = drawn(WORLDS[0], 3), NoiseStream(range(3))
    for captions, draws, message in (([], 4, "captions"), ([named(0)], 0, "draws"), ([named(0, 1)], 4, "2 rows for 3")):
        with pytest.raises(ValueError, match=message):
            which_caption(conditional, x0, captions, SCHEDULE, noise, draws=draws)


def test_the_best_is_the_lowest_mean():
    found = CaptionScores(doubles([[3.0, 5.0], [1.0, 2.0], [9.0, 9.0]]))
    assert found.best.tolist() == [1] and found.behind.tolist() == [[2.5, 0.0, 7.5]]
    assert found.error[0, 0].item() == pytest.approx(0.5)
