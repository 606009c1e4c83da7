"""What a guess of the latent was trained on: subjects, manners, and which of them together; the nearest to any other.

A guess knows the captions of its training as points. Between two of them it answers with a mean of their pictures,
which shows neither. So a subject that it never met ("a sleepy fox") is read as the nearest that it did ("fox"): by the
cosine of pooled states, in which a sentence encoder puts phrases of like meaning side by side (Reimers and Gurevych
2019, arXiv:1908.10084). Where the data itself has the words as a keyword ("pumpkin" of the jack-o'-lantern and of the
pie), only the subjects that have it are compared. A subject that it never met in a style is read in the nearest of
those that it did, by how alike it draws other subjects in the two, and where no style is known ("watercolor") in the
most usual of its own. The U-Net then draws what is shown there in the style that was asked for, as far as it can, for
only the guess reads other words: the tokens that the U-Net attends to stay as they were written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldm.core.bundle import content_hash

SAME = 0.99  # cosine from which on a subject is one that is known, and read as it was written
MOST = 20_000  # names; every prompt is compared with all of them


@dataclass(frozen=True)
class Vocabulary:
    """Known subjects and styles.

    Attributes:
        names: what the subjects are called, without an article.
        states: pooled states of the names, of the text encoder that reads the prompts (n, p).
        styles: how captions call the styles.
        shown: which subject was shown in which style (n, m); each in one or more.
        apart: how differently two styles draw the same subjects (m, m), in any unit.
        grounds: what else captions say of how a subject is shown.
        keywords: other words for each name; none, or as many lists as names.
    """

    names: tuple[str, ...]
    states: Float[Tensor, "n p"]
    styles: tuple[str, ...]
    shown: Bool[Tensor, "n m"]
    apart: Float[Tensor, "m m"]
    grounds: tuple[str, ...] = ()
    keywords: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        n, m = len(self.names), len(self.styles)
        if not 1 <= n <= MOST or self.states.shape[:-1] != (n,):
            raise ValueError(f"names: {n} with {tuple(self.states.shape)} states; there are 1 to {MOST}, each with one")
        if self.shown.shape != (n, m) or self.apart.shape != (m, m) or not self.shown.any(1).all():
            raise ValueError(f"styles: the tables do not tell for {n} names which of {m} styles show them")
        if len(self.keywords) not in (0, n):
            raise ValueError(f"keywords: {len(self.keywords)} lists for {n} names; there is one for each, or none")

    @property
    def words(self) -> dict[str, Sequence[object]]:
        """All of it that is text."""
        keys = ("names", "styles", "grounds", *(("keywords",) if self.keywords else ()))  # as before there were any
        return {key: getattr(self, key) for key in keys}

    @property
    def tables(self) -> dict[str, Tensor]:
        """All of it that is numbers."""
        return {"states": self.states, "shown": self.shown, "apart": self.apart}

    @property
    def key(self) -> str:
        """Tells it from others, by content."""
        return content_hash(self.words, self.tables)

    def captions(self) -> list[str]:
        """What the guess learned, in the words of training: each name in its styles, one in four on a ground."""
        said = [
            [name, style]
            for name, shown in zip(self.names, self.shown.tolist(), strict=True)
            for style, there in zip(self.styles, shown, strict=True)
            if there
        ]
        for i, words in enumerate(said[::4] if self.grounds else []):
            words.append(self.grounds[i % len(self.grounds)])
        return [", ".join(words) for words in said]

    def nearest(
        self, states: Float[Tensor, "b p"], subjects: Sequence[str]
    ) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
        """Number of the name that each subject is taken for, and the cosine of the two states in [-1, 1].

        It is the nearest of all names or, where that is another and the subject is a keyword, of those that have it.

        Args:
            states: pooled states of the subjects.
            subjects: their words.
        """
        known = F.normalize(self.states.to(states.device, torch.float32), dim=1)
        cosines = F.normalize(states.float(), dim=1) @ known.T
        cosine, index = cosines.max(1)
        for row, subject in enumerate(subjects):
            having = self._having.get(_singular(subject))
            if having is not None:
                there = torch.tensor(having, device=index.device)
                best = there[cosines[row, there].argmax()]
                index[row] = torch.where(cosine[row] >= SAME, index[row], best)
        return index, cosines.gather(1, index[:, None])[:, 0]

    def subjects(self, states: Float[Tensor, "b p"], subjects: Sequence[str]) -> Float[Tensor, "b p"]:
        """`states` of `subjects`, but those of unknown ones are those of the names that they are taken for."""
        index, cosine = self.nearest(states, subjects)
        near = self.states.to(states.device, states.dtype)[index]
        return torch.where(cosine[:, None] >= SAME, states, near)

    def manner_for(self, name: int, subject: str, manner: str) -> str | None:
        """What the manner of a caption that shows subject `name` is read as; None where it is read as it was written.

        A style that the subject was not shown in gives way to the nearest that it was. Where there is no style, or none
        that is known, it is that of the subject's styles that is nearest to all others; grounds stay.

        Args:
            name: number of the subject.
            subject: its words, which may say the style: "flat twemoji of a rocket".
            manner: the other words.
        """
        text, asked = manner, self._style_in(manner)
        if asked is None:
            kept = [part for part in (part.strip() for part in manner.split(",")) if part in self.grounds]
            asked = self._style_in(subject)
            if asked is None:
                asked = int(self.apart.sum(1).masked_fill(~self.shown[name], float("inf")).argmin())
            text = ", ".join([self.styles[asked], *kept])
        if not self.shown[name, asked]:
            near = self.apart[asked].masked_fill(~self.shown[name], float("inf")).argmin()
            text = text.replace(self.styles[asked], self.styles[int(near)], 1)
        return None if text == manner else text

    def taken_for(self, state: Float[Tensor, " p"], subject: str, manner: str) -> tuple[str | None, str | None]:
        """The name and manner that a caption is read as; None for each that is read as it was written, or not said."""
        index, cosine = self.nearest(state[None], [subject])
        name = None if cosine.item() >= SAME else self.names[int(index)]
        return name, self.manner_for(int(index), subject, manner) if manner else None

    @cached_property
    def _having(self) -> dict[str, list[int]]:
        """The numbers of the names that have a keyword."""
        having: dict[str, list[int]] = {}
        for number, words in enumerate(self.keywords):
            for word in dict.fromkeys(map(_singular, words)):
                having.setdefault(word, []).append(number)
        return having

    def _style_in(self, text: str) -> int | None:
        return next((k for k in self._longest_first() if self.styles[k] in text), None)

    def _longest_first(self) -> Sequence[int]:
        return sorted(range(len(self.styles)), key=lambda k: -len(self.styles[k]))


def _singular(words: str) -> str:
    """Words in small letters and, crudely, without the s of a plural; the same is done to both that are compared."""
    return " ".join(words.casefold().replace("-", " ").split()).removesuffix("s")
