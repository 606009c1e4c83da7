"""A guess of the clean latent from the text alone: what the denoiser says at pure noise, by a network made for it."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ldm.core.optim import OptimSpec
from ldm.nets.cond import Cond
from ldm.nets.prompt import Prompt, joined
from ldm.nets.text import TextEncoder
from ldm.nets.vocabulary import Vocabulary

READING = "up to the first comma, no leading article; the rest"  # of a caption; part of the key of cached states
SEPARATOR, ARTICLE = ",", re.compile(r"^(a|an|the)\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class GuessSpec:
    """A small network that guesses the latent from the text, and how it is trained before the U-Net.

    At pure noise the best denoiser is E[x_0 | text], a plain regression, for which a U-Net is a slow learner: each of
    its steps sees few latents, most of them at other levels. Trained alone, with large batches, the regression costs
    minutes. The U-Net reads the result beside its input (`net.cond_channels`).

    Most captions say what is shown, up to their first comma, and then how: "rocket, flat twemoji, on blue". The two are
    read apart, so that what was learned of a rocket in one style serves in another.

    Attributes:
        pooled_dim: width of the pooled text.
        shape: (channels, height, width) of a latent.
        width: hidden width of the subject's path.
        manner: hidden width of the manner's path, which scales and shifts the subject's.
        dropout: share of hidden activations dropped while it is trained.
        noise: the U-Net is trained on guesses with Gaussian noise of a standard deviation drawn from [0, noise], so
            that it does not trust them to the letter (Ho et al. 2022, arXiv:2106.15282, section 4.2).
        folds: networks that are trained besides, for half as many steps, each without its part of the pictures; the
            U-Net is trained on their guesses, too, which are as wrong as those for captions that nobody has seen. What
            it would learn from guesses of pictures that the guess remembers is to believe them. 0: none.
        unseen: share of the U-Net's rows whose guess is by the one that was trained without their picture
            (stacking, Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1).
        unread: words that it passes over, since they came into use after it was trained, by fine-tuning. A manner that
            it never met gives a guess that shows nothing.
        batch: latents a step.
        optim: optimiser, learning rate and length; its average is not used.
    """

    kind: Literal["guess"] = "guess"
    pooled_dim: int = 384
    shape: tuple[int, int, int] = (32, 8, 8)
    width: int = 704
    manner: int = 128
    dropout: float = 0.1
    noise: float = 0.5
    folds: int = 0
    unseen: float = 0.3
    unread: tuple[str, ...] = ()
    batch: int = 256
    optim: OptimSpec = field(default_factory=lambda: OptimSpec(lr=1e-3, warmup=50, steps=3000, decay=0.6))

    def __post_init__(self) -> None:
        if min(self.pooled_dim, *self.shape, self.width, self.manner, self.batch) < 1:
            raise ValueError("guess: pooled_dim, shape, width, manner and batch are 1 or more")
        if not 0 <= self.dropout < 1 or self.noise < 0:
            raise ValueError(f"guess: dropout {self.dropout} is in [0, 1), noise {self.noise} is 0 or more")
        if self.folds < 0 or self.folds == 1 or not 0 <= self.unseen <= 1:
            raise ValueError(f"guess: folds {self.folds} is 0, or 2 or more; unseen {self.unseen} is in [0, 1]")


class LatentGuess(nn.Module):
    """Pooled subject and manner (b, 2, p) to a latent (b, c, h, w).

    The manner scales and shifts two hidden layers of the subject (FiLM, Perez et al. 2017, arXiv:1709.07871).
    """

    def __init__(self, spec: GuessSpec):
        super().__init__()
        self.spec = spec
        c, h, w = spec.shape
        self.drop = nn.Dropout(spec.dropout)
        self.subject = nn.Sequential(
            nn.Linear(spec.pooled_dim, spec.width), nn.SiLU(), self.drop, nn.Linear(spec.width, spec.width)
        )
        self.manner = nn.Sequential(nn.Linear(spec.pooled_dim, spec.manner), nn.SiLU())
        self.films = nn.ModuleList(nn.Linear(spec.manner, 2 * spec.width) for _ in range(2))
        self.hidden = nn.Linear(spec.width, spec.width)
        self.out = nn.Linear(spec.width, c * h * w)

    def forward(self, phrases: Float[Tensor, "b 2 p"]) -> Float[Tensor, "b c h w"]:
        """The guess, about E[x_0 | text]."""
        x, manner = self.subject(phrases[:, 0]), self.manner(phrases[:, 1])
        for layer, film in zip((self.hidden, self.out), self.films, strict=True):
            scale, shift = film(manner).chunk(2, dim=-1)
            x = layer(self.drop(F.silu(x * (1 + scale) + shift)))
        return x.unflatten(1, self.spec.shape)

    def into(self, cond: Cond, size: tuple[int, int] | None = None) -> Cond:
        """`cond` with the guess as its channels.

        Args:
            cond: with phrases.
            size: (height, width) of the latents that are drawn; None: those of the guess.

        Raises:
            ValueError: there are no phrases.
        """
        if cond.phrases is None:
            raise ValueError("cond.phrases: the guess reads the phrases of a caption, and there are none")
        guess = self(cond.phrases).float()
        if size is not None and size != self.spec.shape[1:]:
            guess = F.interpolate(guess, size, mode="bilinear", align_corners=False)
        return replace(cond, channels=guess, phrases=None)


Caption = TypeVar("Caption", str, Prompt)


def phrase_spans(caption: str) -> tuple[slice, slice]:
    """Where the subject of a caption stands, up to the first comma and without an article, and where its manner."""
    subject, comma, manner = caption.partition(SEPARATOR)
    start = len(subject) - len(ARTICLE.sub("", subject.lstrip()))
    begin = len(subject) + len(comma)
    return (
        slice(start, start + len(subject[start:].rstrip())),
        slice(begin + len(manner) - len(manner.lstrip()), begin + len(manner.rstrip())),
    )


def with_phrases(
    text: TextEncoder,
    captions: Sequence[Caption],
    unread: Sequence[str] = (),
    read: Callable[[Sequence[Caption]], Cond] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Cond:
    """The conditions of `captions`, with the pooled states of their two phrases (b, 2, p), without the words `unread`.

    A leading article is no part of what is shown: "a fox" and "fox" are one subject to the guess. The tokens keep it.

    Args:
        text: the encoder.
        captions: strings, or weighted prompts with a function to read them.
        read: captions to conditions; None: `text` itself.
        vocabulary: what the guess knows, and reads other phrases as; None: it reads all as they were written.

    Raises:
        ValueError: the encoder gives no pooled state.
    """
    if not text.pooled_width:
        raise ValueError("guess: it reads pooled texts, and this text encoder gives none")
    read = cast(Callable[[Sequence[Caption]], Cond], text) if read is None else read
    shown, how = subject_and_manner(captions, unread)
    subject = cast(Tensor, read(shown).pooled)
    if vocabulary is not None:
        said = [in_vocabulary(text, caption, phrase) for caption, phrase in zip(captions, shown, strict=True)]
        words = [str(phrase) for phrase in shown]
        names = vocabulary.nearest(subject, words)[0].tolist()
        how = [
            _reworded(manner, vocabulary.manner_for(name, phrase, str(manner))) if is_said else manner
            for phrase, manner, name, is_said in zip(words, how, names, said, strict=True)
        ]
        known = torch.tensor(said, device=subject.device)[:, None]
        subject = torch.where(known, vocabulary.subjects(subject, words), subject)
    manner = cast(Tensor, read(how).pooled)
    return replace(read(list(captions)), phrases=torch.stack([subject, manner], dim=1))


def in_vocabulary(text: TextEncoder, caption: Caption, subject: Caption) -> bool:
    """Whether a vocabulary has a say in a caption: not without a subject, nor where a word was learned after it."""
    return bool(str(subject)) and not any(word in str(caption) for word in text.words.ids)


def subject_and_manner(captions: Sequence[Caption], unread: Sequence[str] = ()) -> tuple[list[Caption], list[Caption]]:
    """What captions show, without a leading article, and how: the parts before and after the first comma."""
    captions = [_without(caption, unread) for caption in captions]
    spans = [phrase_spans(str(caption)) for caption in captions]
    subjects = [caption[span] for caption, (span, _) in zip(captions, spans, strict=True)]
    return subjects, [caption[span] for caption, (_, span) in zip(captions, spans, strict=True)]


def _reworded(manner: Caption, words: str | None) -> Caption:
    """`words` in the place of a manner, with the weights of what both begin and end with; None: the manner."""
    if words is None:
        return manner
    return _with_weights(manner, words) if isinstance(manner, Prompt) else words


def _with_weights(prompt: Prompt, words: str) -> Prompt:
    text = str(prompt)
    begin = len(os.path.commonprefix([text, words]))
    end = min(len(os.path.commonprefix([text[::-1], words[::-1]])), min(len(text), len(words)) - begin)
    middle = words[begin : len(words) - end]
    return joined([*prompt[slice(0, begin)].parts, (middle, 1.0), *prompt[slice(len(text) - end, None)].parts])


def _without(caption: Caption, unread: Sequence[str]) -> Caption:
    """A caption without some words, and without the commas that stood around nothing but them."""
    if not unread:
        return caption
    if isinstance(caption, Prompt):
        return _prompt_without(caption, unread)
    text = str(caption)
    for word in unread:
        text = text.replace(word, " ")
    return ", ".join(part for part in (" ".join(p.split()) for p in text.split(SEPARATOR)) if part)


def _prompt_without(prompt: Prompt, unread: Sequence[str]) -> Prompt:
    kept = []
    for text, weight in prompt.parts:
        for word in unread:
            text = text.replace(word, " ")
        kept.append((text, weight))
    left, begin = joined(kept), 0
    parts: list[tuple[str, float]] = []
    for phrase in str(left).split(SEPARATOR):
        if phrase.strip():
            parts += [(", ", 1.0)] * bool(parts) + [*left[slice(begin, begin + len(phrase))].parts]
        begin += len(phrase) + len(SEPARATOR)
    return joined(parts)


def noisy(cond: Cond, level: Float[Tensor, " b"], z: Float[Tensor, "b c h w"]) -> Cond:
    """`cond` with noise of standard deviation `level` on its channels, for the training of a U-Net."""
    assert cond.channels is not None
    return replace(cond, channels=cond.channels + level[:, None, None, None] * z)
