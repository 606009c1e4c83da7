"""Words that a text encoder learned after its vocabulary: textual inversion. Each is a few input embeddings.

Source: Gal et al. 2022 (arXiv:2208.01618) section 3.
"""

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Ids = Int[Tensor, "b n"]
Vectors = Float[Tensor, "k d"]


class NewWords(nn.Module):
    """New words beside a vocabulary of `vocab` tokens; their vectors have the ids from `vocab` on.

    Without any, there is no parameter, and ids and embeddings are what they are without this module.
    """

    def __init__(self, vocab: int):
        super().__init__()
        self.vocab = vocab
        self.ids: dict[str, list[int]] = {}
        self.vectors: nn.Parameter | None
        self.register_parameter("vectors", None)

    def add(self, word: str, vectors: Vectors) -> None:
        """A further word, as `vectors`.

        Raises:
            ValueError: the word is there already.
        """
        if word in self.ids:
            raise ValueError(f"the word {word} is given twice; rename one of the embeddings")
        old = torch.empty(0, vectors.shape[1]) if self.vectors is None else self.vectors.detach()
        first = self.vocab + len(old)
        self.ids[word] = list(range(first, first + len(vectors)))
        self.vectors = nn.Parameter(torch.cat([old.to(vectors), vectors.detach()]), requires_grad=False)

    def of(self, word: str) -> Tensor:
        """The vectors of a word (k, d)."""
        assert self.vectors is not None
        rows = self.ids[word]
        return self.vectors[rows[0] - self.vocab : rows[-1] + 1 - self.vocab]

    def spell(self, text: str, known: Callable[[str], list[int]]) -> list[int]:
        """Token ids of a text: new words by their own, what is between them as `known` reads it."""
        if not self.ids:
            return known(text)
        longest_first = sorted(self.ids, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return [i for part in parts for i in (self.ids[part] if part in self.ids else known(part))]

    def embed(self, ids: Ids, look_up: Callable[[Ids], Float[Tensor, "b n d"]]) -> Float[Tensor, "b n d"]:
        """Input embeddings of token ids: `look_up` for those of the vocabulary."""
        if self.vectors is None:
            return look_up(ids)
        known = look_up(ids.clamp(max=self.vocab - 1))
        new = F.embedding((ids - self.vocab).clamp(min=0), self.vectors).to(known.dtype)
        return torch.where((ids >= self.vocab)[..., None], new, known)

    def left_out(self, text: str, room: int, spell: Callable[[str], list[int]]) -> str:
        """The words of a text from the first on that does not fit into `room` tokens."""
        given = text.split()
        fit = next(n for n in range(len(given), -1, -1) if len(spell(" ".join(given[:n]))) <= room)
        return " ".join(given[fit:])


class Extended(nn.Module):
    """A table of embeddings that reads the ids of new words too; these are owned by another module."""

    def __init__(self, table: nn.Embedding, words: NewWords):
        super().__init__()
        self.table = table
        self._words = (words,)

    def forward(self, ids: Ids) -> Float[Tensor, "b n d"]:
        return self._words[0].embed(ids, self.table)
