"""The subjects that a guess of the latent was trained on, and the nearest of them to any other.

A guess knows the subjects of its training as points. Between two of them it answers with a mean of their pictures,
which shows neither, so a subject that it never met ("a sleepy fox") is read as the nearest that it did ("fox"): by the
cosine of pooled states, in which a sentence encoder puts phrases of like meaning side by side (Reimers and Gurevych
2019, arXiv:1908.10084). Only the guess reads it so; the tokens that the U-Net attends to stay as they were written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ldm.nets.text import TextEncoder

SAME = 0.99  # cosine from which on a subject is one that is known, and read as it was written
AT_ONCE = 64  # names encoded together
MOST = 20_000  # names; every prompt is compared with all of them


@dataclass(frozen=True)
class Subjects:
    """Known subjects.

    Attributes:
        names: what they are called, without an article.
        states: pooled states of the names, of the text encoder that reads the prompts (n, p).
    """

    names: tuple[str, ...]
    states: Float[Tensor, "n p"]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MOST or len(self.names) != len(self.states):
            raise ValueError(
                f"subjects: {len(self.names)} names with {len(self.states)} states; there is one for each of 1 to "
                f"{MOST} names"
            )

    def nearest(self, states: Float[Tensor, "b p"]) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
        """Number of the nearest name to each state, and the cosine of the two in [-1, 1]."""
        known = F.normalize(self.states.to(states.device, torch.float32), dim=1)
        cosine, index = (F.normalize(states.float(), dim=1) @ known.T).max(1)
        return index, cosine

    def replaced(self, states: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """`states`, but those of unknown subjects are those of the nearest known ones."""
        index, cosine = self.nearest(states)
        near = self.states.to(states.device, states.dtype)[index]
        return torch.where(cosine[:, None] >= SAME, states, near)

    def taken_for(self, state: Float[Tensor, " p"]) -> str | None:
        """The name that a subject is read as, None where it is read as it was written."""
        index, cosine = self.nearest(state[None])
        return None if cosine.item() >= SAME else self.names[int(index)]


@torch.inference_mode()
def read_subjects(text: TextEncoder, names: Sequence[str]) -> Subjects | None:
    """Names as `text` reads them; None where there are none, or too many to compare a prompt with.

    Raises:
        ValueError: the encoder gives no pooled state.
    """
    names = tuple(dict.fromkeys(names))
    if not 1 <= len(names) <= MOST:
        return None
    pooled = [text(names[i : i + AT_ONCE]).pooled for i in range(0, len(names), AT_ONCE)]
    if any(part is None for part in pooled):
        raise ValueError("subjects: they are compared by pooled texts, and this text encoder gives none")
    return Subjects(names, torch.cat([part.half().cpu() for part in pooled if part is not None]).clone())
