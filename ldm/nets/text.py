"""Captions to conditions: what a text encoder is, and the choice of one by its spec."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from ldm.nets.clip import ClipEncoder, ClipSpec
from ldm.nets.cond import Cond
from ldm.nets.sentence import Ids, SentenceEncoder, SentenceSpec, WordMask
from ldm.nets.words import NewWords

__all__ = ["ClipSpec", "SentenceSpec", "TextEncoder", "TextSpec", "build_text"]

TextSpec = SentenceSpec | ClipSpec


@runtime_checkable
class TextEncoder(Protocol):
    """Captions to conditions. The empty caption "" is a caption, the null condition of classifier-free guidance.

    Attributes:
        width: of `Cond.tokens`.
        pooled_width: of `Cond.pooled`; 0 if there is none.
        max_tokens: tokens per caption, always the same, so that shapes never change.
        trainable: whether it has weights that are to be trained with the network's; else all are frozen.
        words: what it learned after its vocabulary.
        restores: what of the states stays when words are weighted: their "mean", or their "size".
        pools: the pooled state is the "mean" over words, or that of the "first" chunk of a long text.
    """

    width: int
    pooled_width: int
    max_tokens: int
    trainable: bool
    words: NewWords
    restores: Literal["mean", "size"]
    pools: Literal["mean", "first"]

    def __call__(self, captions: Sequence[str]) -> Cond:
        """Conditions of a list of captions, on the device of the weights."""
        ...

    def encode(self, ids: Ids, mask: WordMask) -> Cond:
        """Conditions of tokenised captions; tensors in, tensors out, so that it compiles."""
        ...

    def tokenize(self, captions: Sequence[str]) -> tuple[Ids, WordMask]:
        """Token ids (b, max_tokens) and which of them are not padding; what does not fit is left out."""
        ...

    def framed(self, rows: Sequence[Sequence[int]]) -> tuple[Ids, WordMask]:
        """Ids of at most `max_tokens` - 2 tokens with end marks and padding, as `tokenize` gives them."""
        ...

    def cut(self, caption: str) -> str:
        """The words that do not fit, separated by single spaces; empty if all do."""
        ...

    def spell(self, text: str) -> list[int]:
        """Token ids of a text, without end marks and however long it is."""
        ...

    def table(self) -> Tensor:
        """The vocabulary's input embeddings (vocab, width)."""
        ...

    def teach(self, word: str, vectors: Tensor) -> None:
        """Add a word that captions may have, with its input embeddings (k, width)."""
        ...

    def knows(self, word: str) -> bool:
        """Whether the vocabulary has `word` as one token."""
        ...


def build_text(spec: TextSpec, root: Path = Path()) -> TextEncoder:
    """The text encoder that `spec` describes.

    Args:
        spec: a spec of one of the encoders.
        root: where a relative path in `spec` starts.

    Raises:
        ValueError: a file is missing or damaged, or a model, tag or option is not possible.
    """
    match spec:
        case SentenceSpec():
            return SentenceEncoder(spec, root)
        case ClipSpec():
            return ClipEncoder(spec)
