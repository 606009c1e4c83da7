"""Train the guess of the latent from the text, before the U-Net that reads it."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ldm.core.bundle import write_atomically
from ldm.core.distributed import world
from ldm.core.divergence import DivergenceError, first_bad_tensor
from ldm.core.optim import adamw
from ldm.core.precision import autocast
from ldm.core.rng import fold
from ldm.nets.guess import LatentGuess

FILE = "guess.safetensors"
SAVED_EVERY = 500  # steps; about a minute for the shipped model's
Pairs = tuple[Tensor, Tensor]  # latents (n, c, h, w) and the phrases of their captions (n, 2, p)


@dataclass(frozen=True)
class Lesson:
    """What a guess is trained on.

    Attributes:
        seen: from `LatentCache.means_and_phrases`.
        null: phrases of the empty caption (2, p).
        dropped: share of captions replaced by it.
        seed: of order and dropout.
        name: what the stream of random numbers is folded with.
    """

    seen: Pairs
    null: Tensor
    dropped: float
    seed: int
    name: str = "guess"


class UnseenGuesses(nn.Module):
    """Guesses for pictures by networks that were trained without them, see `GuessSpec.folds`.

    Args:
        folds: network k was trained without part k of the pictures.
        part: of every picture, by its number in the data set (pictures,).
    """

    part: Tensor

    def __init__(self, folds: list[LatentGuess], part: Int[Tensor, " pictures"]):
        super().__init__()
        self.folds = nn.ModuleList(folds)
        self.register_buffer("part", part, persistent=False)

    def forward(self, phrases: Float[Tensor, "b 2 p"], picture: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Guesses for the captions of the pictures with these numbers in the data set."""
        every = torch.stack([guess(phrases).float() for guess in self.folds])
        return every[self.part[picture.long()], torch.arange(len(phrases), device=phrases.device)]


def train_guess(guess: LatentGuess, lesson: Lesson, out: Path, start: LatentGuess | None = None) -> None:
    """Regress the cached latents on their captions; a finished one is taken from `out` or `start` instead.

    Args:
        guess: trained in place, and frozen.
        lesson: on what.
        out: folder of the run; the weights are kept there.
        start: the guess of the model that the run starts from; taken over where it has the same shape.

    Raises:
        ValueError: the guess in `out` is damaged or of another shape.
        DivergenceError: a loss is not finite.
    """
    fits = start is not None and _shape(start) == _shape(guess)
    if start is not None and fits and world().first and not (out / FILE).is_file():
        _keep(start, out / FILE)
    _trained(guess, lesson, out / FILE)


def train_unseen(guess: LatentGuess, lesson: Lesson, picture: Int[Tensor, " n"], out: Path) -> UnseenGuesses | None:
    """The networks that guess for each other's pictures, like `guess`; those in `out` are taken from there.

    Args:
        guess: of the model; only its shape matters.
        lesson: on what, all pictures.
        picture: the number in the data set of every item's picture.
        out: folder of the run.

    Raises:
        ValueError: one in `out` is damaged or of another shape.
    """
    spec = guess.spec
    if not spec.folds:
        return None
    # at random: pictures of a concept often follow each other, in one style after another
    order = torch.randperm(int(picture.max()) + 1, generator=torch.Generator().manual_seed(fold(lesson.seed, "folds")))
    part = order % spec.folds
    half = replace(spec, optim=replace(spec.optim, steps=max(1, spec.optim.steps // 2)))
    folds = []
    for k in range(spec.folds):
        others = part[picture.long()] != k
        without = replace(lesson, seen=(lesson.seen[0][others], lesson.seen[1][others]), name=f"guess without {k}")
        net = LatentGuess(half)
        _trained(net, without, out / f"guess-without-{k}.safetensors")
        folds.append(net)
    return UnseenGuesses(folds, part)


def _trained(guess: LatentGuess, lesson: Lesson, path: Path) -> None:
    """Train the guess into a file, if it is not there; of several processes the first does, and all read it."""
    here = world()
    if here.first:
        if not path.is_file():
            begun = path.with_name(f"{path.name}.part")
            _regress(guess.train(), lesson, begun)
            _keep(guess, path)
            begun.unlink(missing_ok=True)
        here.told(False)
    else:
        while here.told(None):  # again and again, for one wait has a time limit
            pass
    try:
        guess.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path}: damaged or of another shape; remove it to train it again") from error
    guess.eval().requires_grad_(False)


def _keep(guess: LatentGuess, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(guess.state_dict()))


def _shape(guess: LatentGuess) -> list[torch.Size]:
    return [weight.shape for weight in guess.parameters()]


def error(guess: LatentGuess, data: Pairs) -> float:
    """Mean squared error per element over all pairs."""
    mean, phrases = data
    with torch.no_grad():
        return float(((guess.eval()(phrases.float()) - mean.float()) ** 2).mean())


def _regress(guess: LatentGuess, lesson: Lesson, begun: Path) -> None:
    """Train, from what an interrupted run left in the file `begun`, as that run would have gone on.

    The other processes are told now and then that it goes on.
    """
    spec = guess.spec
    mean, phrases = lesson.seen
    torch.manual_seed(fold(lesson.seed, lesson.name))
    optimizer = adamw(guess, spec.optim)
    parts = {"guess": guess, "optimizer": optimizer}
    key = repr((spec, lesson.seed, lesson.name, lesson.dropped, tuple(mean.shape)))
    for step in range(_resumed(begun, parts, key), spec.optim.steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.optim.lr * spec.optim.factor(step)
        rows = torch.randint(len(mean), (spec.batch,))
        empty = torch.rand(spec.batch, 1, 1) < lesson.dropped
        text = torch.where(empty, lesson.null.float(), phrases[rows].float())
        with autocast(torch.device("cpu")):
            found = guess(text)
        loss = ((found.float() - mean[rows].float()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        if not torch.isfinite(loss):
            raise DivergenceError(
                f"step {step} of the guess: training produced NaN or infinity; first tensor that is not finite: "
                f"{first_bad_tensor(guess)}; lower guess.optim.lr, or look at the data, and run the same command again"
            )
        nn.utils.clip_grad_norm_(guess.parameters(), spec.optim.clip)
        optimizer.step()
        if (step + 1) % SAVED_EVERY == 0:
            _save(begun, parts, key, step + 1)
            world().told(True)


def _save(path: Path, parts: dict[str, Any], key: str, done: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    content = io.BytesIO()
    torch.save(state | {"key": key, "done": done, "random": torch.get_rng_state()}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def _resumed(path: Path, parts: dict[str, Any], key: str) -> int:
    """Steps that are done; a file of another training, or a damaged one, counts as none."""
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of a cut or damaged file whatever torch says
        return 0
    if state["key"] != key:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    return int(state["done"])
