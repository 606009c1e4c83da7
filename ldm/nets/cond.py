"""What a network is conditioned on besides the noise level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cond:
    """The conditions of a batch of b images; every field that is not None has b rows.

    Attributes:
        tokens: text states for cross-attention (b, n, d).
        mask: which tokens are words rather than padding (b, n), bool. None: all are.
        pooled: one vector for the whole text (b, p), added to the time embedding. None: not used.
        channels: pictures in latent resolution (b, c, h, w), concatenated to the network's input: a low-resolution
            picture, a mask, a depth map. None: not used.
        phrases: pooled states of what the text shows and of how (b, 2, p), which a guess of the latent reads and
            turns into channels. None: not used.
        scale: guidance scale (b,) of a distilled network, which was taught guided predictions. None: not used.
        stride: length (b,) of the step that follows, as a share of the schedule's time, for a distilled network,
            which was taught where the steps of its teacher lead; 0: the prediction itself. None: not used.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    channels: Tensor | None = None
    phrases: Tensor | None = None
    scale: Tensor | None = None
    stride: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Cond":
        """Apply `change` to every field that is present, e.g. a move to a device or a row selection."""
        return replace(self, **{name: change(value) for name, value in self.present().items()})

    def present(self) -> dict[str, Tensor]:
        """The fields that are not None, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def concatenate(conds: Sequence[Cond]) -> Cond:
    """One batch from several, in order. All must have the same fields and token counts.

    Raises:
        ValueError: a field is present in some and absent in others.
    """
    return _combined(conds, lambda *values: torch.cat(values))


def where(chosen: Tensor, yes: Cond, no: Cond) -> Cond:
    """Row-wise choice: rows of `yes` where `chosen` (b,) bool, else rows of `no` (caption dropout).

    Raises:
        ValueError: a field is present in one and absent in the other.
    """
    return _combined([yes, no], lambda a, b: torch.where(chosen.reshape(-1, *([1] * (a.ndim - 1))), a, b))


def _combined(conds: Sequence[Cond], combine: Callable[..., Tensor]) -> Cond:
    """Field by field; a field that none has stays absent."""
    found: dict[str, Any] = {}
    for name in (f.name for f in fields(Cond)):
        values = [getattr(cond, name) for cond in conds]
        if any(value is None for value in values) and any(value is not None for value in values):
            raise ValueError(f"conditions disagree: '{name}' is present in some and absent in others")
        found[name] = None if values[0] is None else combine(*values)
    return Cond(**found)
