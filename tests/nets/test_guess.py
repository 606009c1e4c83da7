"""The guess of the latent from the text: what it learns, how it reaches the U-Net, what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ldm.config import RunConfig
from ldm.core.config_io import from_dict, to_dict
from ldm.core.divergence import DivergenceError
from ldm.core.optim import OptimSpec
from ldm.core.precision import autocast
from ldm.nets.cond import Cond
from ldm.nets.guess import GuessSpec, LatentGuess, noisy, subject_and_manner, with_phrases
from ldm.nets.prompt import parse
from ldm.nets.unet import UNetSpec
from ldm.training import guess as training
from ldm.training.guess import Lesson, error, train_guess, train_unseen

SPEC = GuessSpec(
    pooled_dim=6, shape=(2, 4, 4), width=64, dropout=0.0, batch=64, optim=OptimSpec(lr=5e-3, warmup=5, steps=200)
)


def pairs(n):
    """Latents that are a function of the phrases, and the phrases."""
    generator = torch.Generator().manual_seed(n)
    phrases = torch.randn(n, 2, 6, generator=generator)
    shift = torch.arange(32.0).reshape(2, 4, 4) / 32
    return torch.tanh(phrases[:, 0].sum(1) * phrases[:, 1, 0])[:, None, None, None] + shift, phrases


def lesson(n):
    return Lesson(pairs(n), torch.zeros(2, 6), dropped=0.0, seed=0)


def test_it_learns_the_latent_of_a_text_and_keeps_it(tmp_path):
    torch.manual_seed(0)
    guess, again = LatentGuess(SPEC), LatentGuess(SPEC)
    before = error(guess, pairs(300))
    train_guess(guess, lesson(200), tmp_path)
    assert error(guess, pairs(300)) < 0.1 * before
    assert not any(p.requires_grad for p in guess.parameters()) and not guess.training
    train_guess(again, lesson(200), tmp_path)  # read from the folder
    assert all(torch.equal(a, b) for a, b in zip(guess.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("stopped", [3, 40, 199])
def test_an_interrupted_training_goes_on_to_the_bit(tmp_path, monkeypatch, stopped):
    def trained(out) -> LatentGuess:
        torch.manual_seed(1)
        guess = LatentGuess(replace(SPEC, dropout=0.1))
        train_guess(guess, replace(lesson(200), dropped=0.3), out)
        return guess

    whole, steps = trained(tmp_path / "whole"), []
    monkeypatch.setattr(training, "SAVED_EVERY", 16)

    def interrupted(*arguments):
        steps.append(0)
        if len(steps) == stopped:
            raise KeyboardInterrupt
        return autocast(*arguments)

    monkeypatch.setattr(training, "autocast", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts")
    begun = tmp_path / "parts/guess.safetensors.part"
    assert begun.is_file() == (stopped > 16) and not (tmp_path / "parts/guess.safetensors").exists()
    again = trained(tmp_path / "parts")
    assert len(steps) - stopped == 200 - (stopped - 1) // 16 * 16  # not from the start
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert not begun.exists()
    begun.write_bytes(b"cut")
    (tmp_path / "parts/guess.safetensors").unlink()
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), trained(tmp_path / "parts").parameters(), strict=True)
    )


def test_of_several_processes_the_first_trains_and_all_read_what_it_wrote(tmp_path, monkeypatch):
    first, second, said = LatentGuess(SPEC), LatentGuess(SPEC), []
    monkeypatch.setattr(training, "SAVED_EVERY", 80)
    monkeypatch.setattr(training, "world", lambda: SimpleNamespace(first=True, told=said.append))
    train_guess(first, lesson(200), tmp_path)
    assert said == [True, True, False]  # none of the waits is longer than 80 steps
    heard = iter(said)
    monkeypatch.setattr(training, "world", lambda: SimpleNamespace(first=False, told=lambda value: next(heard)))
    monkeypatch.setattr(training, "_regress", None)
    monkeypatch.setattr(training, "_keep", None)
    train_guess(second, lesson(200), tmp_path, LatentGuess(SPEC))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not list(heard)


def test_numbers_that_are_not_finite_end_it_with_the_tensor(tmp_path):
    mean, phrases = pairs(50)
    mean[7] = float("nan")
    with pytest.raises(DivergenceError, match=r"step \d+ of the guess: .* not finite: gradient of .*; lower guess"):
        train_guess(LatentGuess(SPEC), Lesson((mean, phrases), torch.zeros(2, 6), dropped=0.0, seed=0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_guess_of_the_model_that_a_run_starts_from_is_taken_over(tmp_path):
    start, guess, other = LatentGuess(SPEC), LatentGuess(SPEC), LatentGuess(replace(SPEC, width=32))
    train_guess(guess, lesson(50), tmp_path / "same", start)
    assert all(torch.equal(a, b) for a, b in zip(guess.parameters(), start.parameters(), strict=True))
    before = error(other, pairs(50))
    train_guess(other, lesson(50), tmp_path / "other", start)
    assert error(other, pairs(50)) < before


def test_the_empty_caption_gets_the_mean_of_all(tmp_path):
    torch.manual_seed(0)
    guess, data, null = LatentGuess(SPEC), pairs(200), torch.full((2, 6), 9.0)
    train_guess(guess, Lesson(data, null, dropped=0.5, seed=0), tmp_path)
    with torch.no_grad():
        assert (guess(null[None])[0] - data[0].mean(0)).abs().mean() < 0.1


def test_unseen_guesses_are_by_networks_that_never_saw_the_picture(tmp_path):
    """Where latents say nothing of each other, only who has seen one can know it."""
    torch.manual_seed(0)
    spec = replace(SPEC, folds=2, optim=replace(SPEC.optim, steps=600))
    mean, phrases = torch.randn(24, 2, 4, 4), torch.randn(24, 2, 6)
    lesson = Lesson((mean, phrases), torch.zeros(2, 6), dropped=0.0, seed=0)
    picture = torch.arange(24) // 2  # two views of each
    assert train_unseen(LatentGuess(SPEC), lesson, picture, tmp_path) is None
    unseen = train_unseen(LatentGuess(spec), lesson, picture, tmp_path)
    assert unseen is not None and not any(p.requires_grad for p in unseen.parameters())
    with torch.no_grad():
        its, others = unseen(phrases, picture), torch.stack([guess(phrases) for guess in unseen.folds])
    wrong = (others - mean).square().mean((2, 3, 4))
    assert (wrong.min(0).values < 0.1).all() and (wrong.max(0).values > 0.5).all()
    assert torch.equal((its - mean).square().mean((1, 2, 3)), wrong.max(0).values)
    again = train_unseen(LatentGuess(spec), lesson, picture, tmp_path)  # read from the folder
    assert again is not None and torch.equal(again(phrases, picture), its)


def test_it_becomes_the_channels_of_any_size_of_latent():
    guess, cond = LatentGuess(SPEC), Cond(tokens=torch.zeros(3, 1, 6), phrases=torch.randn(3, 2, 6))
    with torch.no_grad():
        plain, wide = guess.into(cond), guess.into(cond, (4, 8))
    assert plain.channels is not None and wide.channels is not None
    assert torch.equal(plain.channels, guess(cond.phrases)) and wide.channels.shape == (3, 2, 4, 8)
    with pytest.raises(ValueError, match="reads the phrases of a caption, and there are none"):
        guess.into(replace(cond, phrases=None))


def test_noise_is_added_at_each_rows_own_level():
    cond = Cond(tokens=torch.zeros(2, 1, 6), channels=torch.ones(2, 2, 4, 4))
    found = noisy(cond, torch.tensor([0.0, 0.5]), torch.full((2, 2, 4, 4), 2.0)).channels
    assert (
        found is not None
        and torch.equal(found[0], torch.ones(2, 4, 4))
        and torch.equal(found[1], 2 * torch.ones(2, 4, 4))
    )


def test_the_network_must_read_it_and_a_file_keeps_it():
    with pytest.raises(ValueError, match="net.cond_channels: 0, but the guess has 2 channels"):
        RunConfig(guess=SPEC)
    config = RunConfig(guess=SPEC, net=UNetSpec(cond_channels=2))
    assert from_dict(RunConfig, to_dict(config)) == config
    with pytest.raises(ValueError, match="guess: dropout 1.5 is in"):
        GuessSpec(dropout=1.5)
    with pytest.raises(ValueError, match="guess: folds 1 is 0, or 2 or more"):
        GuessSpec(folds=1)


class Letters:
    """Pooled states that tell a caption by its length and first letter."""

    width = pooled_width = 2
    max_tokens, trainable = 1, False
    restores, pools, words = "size", "mean", None

    def encode(self, ids, mask): ...

    def tokenize(self, captions): ...

    def cut(self, caption): ...

    def framed(self, rows): ...

    def spell(self, text): ...

    def table(self): ...

    def teach(self, word, vectors): ...

    def knows(self, word): ...

    def __call__(self, captions):
        pooled = torch.tensor([[float(len(c)), float(ord(c[0])) if c else 0.0] for c in captions])
        return Cond(tokens=torch.zeros(len(captions), 1, 2), pooled=pooled)


def test_a_caption_is_read_as_what_is_shown_and_how():
    cond = with_phrases(Letters(), ["rocket, flat, on blue", "a dog", "", "An Owl,flat", "the", "apple"])
    assert cond.phrases is not None and cond.pooled is not None
    assert cond.phrases.tolist() == [
        [[6, ord("r")], [13, ord("f")]],
        [[3, ord("d")], [0, 0]],  # without its article
        [[0, 0], [0, 0]],
        [[3, ord("O")], [4, ord("f")]],
        [[3, ord("t")], [0, 0]],  # a word alone is no article
        [[5, ord("a")], [0, 0]],
    ]
    assert cond.pooled[:3].tolist() == [[21, ord("r")], [5, ord("a")], [0, 0]]
    nothing = Letters()
    nothing.pooled_width = 0
    with pytest.raises(ValueError, match="guess: it reads pooled texts, and this text encoder gives none"):
        with_phrases(nothing, ["a dog"])


@pytest.mark.parametrize("text", ["<x>, a fox, flat", "fox in <x>, <y>,flat", "a (fox:1.5), (<x>), [flat]", "<x>", ""])
def test_weighted_prompts_and_texts_have_the_same_phrases(text):
    """Words that the guess passes over are left out of both."""
    plain = subject_and_manner([str(parse(text))], ("<x>", "<y>"))
    weighted = subject_and_manner([parse(text)], ("<x>", "<y>"))
    assert [str(phrase).split() for (phrase,) in weighted] == [phrase.split() for (phrase,) in plain]
    for (phrase,) in weighted:
        assert all(
            any(word in part and weight == its for part, its in parse(text).parts) for word, weight in phrase.words()
        )
