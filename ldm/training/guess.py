"""Train the guess of the latent from the text, before the U-Net that reads it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ldm.core.bundle import write_atomically
from ldm.core.optim import adamw
from ldm.core.precision import autocast
from ldm.core.rng import fold
from ldm.nets.guess import LatentGuess

FILE = "guess.safetensors"
Pairs = tuple[Tensor, Tensor]  # latents (n, c, h, w) and the phrases of their captions (n, 2, p)


def train_guess(
    guess: LatentGuess,
    seen: Pairs,
    null: Tensor,
    dropped: float,
    seed: int,
    out: Path,
    start: LatentGuess | None = None,
) -> None:
    """Regress the cached latents on their captions; a finished one is taken from `out` or `start` instead.

    Raises:
        ValueError: the guess in `out` is damaged or of another shape.

    Args:
        guess: trained in place, and frozen.
        seen: from `LatentCache.means_and_phrases`.
        null: phrases of the empty caption (2, p).
        dropped: share of captions replaced by it.
        seed: of order and dropout.
        out: folder of the run; the weights are kept there.
        start: the guess of the model that the run starts from; taken over where it has the same shape.
    """
    if (out / FILE).is_file():
        try:
            guess.load_state_dict(load_file(out / FILE))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"{out / FILE}: damaged or of another shape; remove it to train it again") from error
    else:
        if start is not None and _shape(start) == _shape(guess):
            guess.load_state_dict(start.state_dict())
        else:
            _regress(guess.train(), seen, null, dropped, seed)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / FILE, save(guess.state_dict()))
    guess.eval().requires_grad_(False)


def _shape(guess: LatentGuess) -> list[torch.Size]:
    return [weight.shape for weight in guess.parameters()]


def error(guess: LatentGuess, data: Pairs) -> float:
    """Mean squared error per element over all pairs."""
    mean, phrases = data
    with torch.no_grad():
        return float(((guess.eval()(phrases.float()) - mean.float()) ** 2).mean())


def _regress(guess: LatentGuess, seen: Pairs, null: Tensor, dropped: float, seed: int) -> None:
    spec = guess.spec
    mean, phrases = seen
    torch.manual_seed(fold(seed, "guess"))
    optimizer = adamw(guess, spec.optim)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, spec.optim.factor)
    for _ in range(spec.optim.steps):
        rows = torch.randint(len(mean), (spec.batch,))
        empty = torch.rand(spec.batch, 1, 1) < dropped
        text = torch.where(empty, null.float(), phrases[rows].float())
        with autocast(torch.device("cpu")):
            found = guess(text)
        loss = ((found.float() - mean[rows].float()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(guess.parameters(), spec.optim.clip)
        optimizer.step()
        schedule.step()
