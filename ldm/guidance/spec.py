"""How guidance is done besides its scale: the rule for the two estimates, and the levels at which it is used."""

import math
from dataclasses import dataclass
from typing import Literal

from ldm.denoiser import Denoiser
from ldm.guidance.combine import Combine, contrast_kept, extrapolated, projected
from ldm.guidance.free import on_interval


@dataclass(frozen=True, kw_only=True)
class GuidanceSpec:
    """Everything about classifier-free guidance but its scale.

    Attributes:
        rule: "plain" extrapolates; "apg" does so at right angles to the picture (`ldm.guidance.combine.projected`).
        parallel: of apg: share of the parallel part that is kept.
        norm: of apg: longest difference; null for no bound.
        momentum: of apg: share of the former difference.
        contrast: how much of the plain estimate's contrast is restored, in [0, 1].
        lo: noisiest level that is guided, nats; null for no bound.
        hi: cleanest level that is guided, nats; null for no bound. Elsewhere one evaluation is saved.

    Raises:
        ValueError: options of apg for the plain rule, bounds that do not rise, or a value out of range.
    """

    rule: Literal["plain", "apg"] = "plain"
    parallel: float = 0.0
    norm: float | None = None
    momentum: float = 0.0
    contrast: float = 0.0
    lo: float | None = None
    hi: float | None = None

    def __post_init__(self) -> None:
        if self.rule == "plain" and (self.parallel, self.norm, self.momentum) != (0.0, None, 0.0):
            raise ValueError("guidance: parallel, norm and momentum belong to the rule 'apg'; set rule=apg")
        if not self._lo < self._hi:
            raise ValueError(f"guidance: lo {self.lo}, hi {self.hi} do not rise; give nats, the noisier first")
        self.combine(2.0)  # refuses what is out of range

    def combine(self, scale: float) -> Combine | None:
        """The rule for a scale, a new one for every picture that is drawn; None: plain extrapolation."""
        if self.rule == "plain" and self.contrast == 0:
            return None
        rule = extrapolated(scale)
        if self.rule == "apg":
            norm = math.inf if self.norm is None else self.norm
            rule = projected(scale, parallel=self.parallel, norm=norm, momentum=self.momentum)
        return contrast_kept(rule, self.contrast)

    def limited(self, guided: Denoiser, plain: Denoiser) -> Denoiser:
        """`guided` between the bounds and `plain` elsewhere; `guided` itself where there are none."""
        if (self.lo, self.hi) == (None, None):
            return guided
        return on_interval(guided, plain, self._lo, self._hi)

    @property
    def _lo(self) -> float:
        return -math.inf if self.lo is None else self.lo

    @property
    def _hi(self) -> float:
        return math.inf if self.hi is None else self.hi
