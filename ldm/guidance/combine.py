"""How two estimates of the clean latent, one better informed than the other, become a guided one.

Whoever has two of them uses these rules: with and without a prompt (`classifier_free`), by a strong and by a weak
network (`autoguided`). They work on x_0, where every parameterisation means the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.core.ranges import check_finite
from ldm.core.shapes import Latent, PerImage, expand_like

Combine = Callable[[Latent, Latent], Latent]  # (x0 of the better informed, x0 of the other), both (b, *d)


def extrapolated(scale: float | PerImage) -> Combine:
    """weak + scale (strong - weak): 1 is the strong estimate, more goes beyond it.

    Source: Ho and Salimans 2022 (arXiv:2207.12598) Eq. 6, where w = scale - 1.

    Args:
        scale: one number, or one for each image (b,).

    Raises:
        ValueError: a scale is infinite or not a number (those of images are looked at on the CPU only).
    """
    if isinstance(scale, Tensor):
        check_finite("scale", scale, hint="1 is the strong estimate")
    elif not math.isfinite(scale):
        raise ValueError(f"scale: {scale} is not a finite number; 1 is the strong estimate")

    def combine(strong: Latent, weak: Latent) -> Latent:
        factor = expand_like(scale, strong) if isinstance(scale, Tensor) else scale
        return weak + factor * (strong - weak)

    return combine


def projected(scale: float, *, parallel: float = 0.0, norm: float = math.inf, momentum: float = 0.0) -> Combine:
    """Adaptive projected guidance (APG): extrapolate mostly at right angles to the strong estimate.

        d  = strong - weak + momentum d_before,   shortened to at most `norm`
        x0 = strong + (scale - 1) (d_orthogonal + parallel d_parallel)

    split along the strong estimate. The part along it only makes a picture brighter or more saturated, and does that
    more with every unit of scale; without it strong guidance keeps its colours.

    With a momentum the rule remembers d from call to call, so make a new one for every picture that is drawn, and
    expect samplers that evaluate twice in a step to use it twice.

    Source: Sadat et al. 2024 (arXiv:2410.02416) Eq. 8-10 and Algorithm 1, whose eta is `parallel`, r is `norm`, and
    beta is `momentum` (they recommend 0, 2.5 to 15 and -0.5 to -0.75).

    Args:
        scale: as for `extrapolated`.
        parallel: how much of the part along the strong estimate is kept, in [0, 1]; 1 keeps all.
        norm: longest d allowed, over all elements of an image; infinity for no bound.
        momentum: share of the former d that is added, in (-1, 1).

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 <= parallel <= 1:
        raise ValueError(f"parallel: {parallel} is outside [0, 1]; 0 drops what only saturates, 1 keeps it")
    if not norm > 0:
        raise ValueError(f"norm: {norm} is not above 0; infinity is no bound")
    if not -1 < momentum < 1:
        raise ValueError(f"momentum: {momentum} is outside (-1, 1); 0 is none, -0.5 is usual")
    before: list[Latent] = []

    def combine(strong: Latent, weak: Latent) -> Latent:
        d = strong - weak
        if momentum != 0:
            if before:
                d = d + momentum * before[0]
            before[:] = [d]
        if norm < math.inf:
            d = d * expand_like((norm / _length(d).clamp(min=1e-30)).clamp(max=1.0), d)
        along = (d * strong).flatten(1).sum(1) / (strong**2).flatten(1).sum(1).clamp(min=1e-30)
        d_parallel = expand_like(along, strong) * strong
        return strong + (scale - 1) * (d - d_parallel + parallel * d_parallel)

    return combine


def contrast_kept(combine: Combine, phi: float) -> Combine:
    """Pull the contrast of what `combine` makes back to that of the strong estimate, against over-exposure.

        x0 = x0_guided (1 - phi + phi std(strong) / std(x0_guided))

    with the standard deviation over all elements of an image.

    Source: Lin et al. 2024 (arXiv:2305.08891) section 3.4, applied here to x_0, so that a model's parameterisation does
    not matter.

    Args:
        combine: the rule.
        phi: strength in [0, 1]; 0 returns `combine` itself, the paper recommends 0.7.

    Raises:
        ValueError: `phi` outside [0, 1].
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"phi: {phi} is outside [0, 1]; 0 leaves guidance as it is, 0.7 is usual")
    if phi == 0:
        return combine

    def kept(strong: Latent, weak: Latent) -> Latent:
        guided = combine(strong, weak)
        std, wanted = (x0.flatten(1).std(1, correction=0) for x0 in (guided, strong))
        ratio = torch.where(std > 0, wanted / std, 1.0)  # a constant picture has no contrast to change
        return guided * expand_like(1 - phi + phi * ratio, guided)

    return kept


def _length(x: Latent) -> PerImage:
    return (x**2).flatten(1).sum(1).sqrt()
