"""Textual inversion: a new word of the text encoder is learned, and nothing else.

The vectors are input embeddings of the frozen encoder, not its output states: so the word takes part in every sentence,
and pooled states and the guess of the latent, which read the whole text, know it too.

Source: Gal et al. 2022 (arXiv:2208.01618).
"""

from dataclasses import dataclass
from typing import Literal

import torch

from ldm.build import Model
from ldm.core.rng import NoiseStream, fold
from ldm.nets.embedding_file import check_word, mean_of


@dataclass(frozen=True, kw_only=True)
class WordSpec:
    """One new word.

    Attributes:
        vectors: input embeddings that it stands for; more hold more, and take more of a caption's tokens.
        start: known words whose mean embedding they start from.
    """

    kind: Literal["word"] = "word"
    vectors: int = 4
    start: str = "style"

    def __post_init__(self) -> None:
        if self.vectors < 1:
            raise ValueError(f"vectors: {self.vectors} is below 1")
        if not self.start.strip():
            raise ValueError("start: empty; name what the new word is like, e.g. style, cat")


def add_word(model: Model, spec: WordSpec, word: str, seed: int) -> None:
    """Freeze `model` and teach its text encoder a word that is still to be trained, in place.

    Raises:
        ValueError: the word cannot name something new, or does not fit into a caption.
    """
    text = model.text
    check_word(word, text)
    if spec.vectors > text.max_tokens // 2:
        raise ValueError(f"learn.vectors: {spec.vectors} of the {text.max_tokens} tokens of a caption; at most half")
    start = mean_of(text, spec.start)
    apart = NoiseStream([fold(seed, "word")]).normal((1, spec.vectors, len(start)))[0]
    text.teach(word, start + 0.1 * text.table().std() * apart.to(start))
    assert text.words.vectors is not None
    text.words.vectors.requires_grad_(True)
    text.trainable = True
    assert isinstance(text, torch.nn.Module)
    model.denoise.requires_grad_(False)
