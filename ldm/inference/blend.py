"""Between two prompts, and between two seeds: what lies part of the way from one picture to another."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.core.precision import in_float64
from ldm.core.shapes import Latent, PerImage, expand_like
from ldm.nets.cond import Cond


@dataclass(frozen=True, kw_only=True)
class Blend:
    """The other end of each picture, and how far it is on the way there.

    Attributes:
        share: one per picture, 0 (the request's own prompt and seed) to 1 (those given here).
        prompts: of the other end, one per picture; None: the prompts stay.
        seeds: of the other end, one per picture; None: the noise stays. Only the noise that a picture starts from is
            blended; what a sampler draws on the way is of the request's own seed.
    """

    share: tuple[float, ...]
    prompts: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in self.share):
            raise ValueError(f"share: {self.share} leaves 0 to 1, from one end to the other")
        for name, given in (("prompts", self.prompts), ("seeds", self.seeds)):
            if given is not None and len(given) != len(self.share):
                raise ValueError(f"blend.{name}: {len(given)} for {len(self.share)} pictures; give one for each")

    def part(self, rows: slice) -> "Blend":
        """The same for some of the pictures."""
        prompts = None if self.prompts is None else self.prompts[rows]
        seeds = None if self.seeds is None else self.seeds[rows]
        return Blend(share=self.share[rows], prompts=prompts, seeds=seeds)

    def shares(self, like: Tensor) -> PerImage:
        """`share` as a tensor (b,), float32 on the device of `like`."""
        return torch.tensor(self.share, dtype=torch.float32, device=like.device)


def slerp(a: Latent, b: Latent, share: PerImage) -> Latent:
    """The point at `share` of the arc from `a` to `b`, with Omega the angle between them as vectors over all of *d:

        sin((1 - share) Omega) / sin(Omega) a + sin(share Omega) / sin(Omega) b

    Two draws of N(0, I) in many dimensions are nearly orthogonal and of one length, and so is every point of the arc,
    while the straight line between them passes through shorter vectors, which are no noise of that level.
    Source: Shoemake 1985, "Animating rotation with quaternion curves"; for noise, White 2016 (arXiv:1609.04468).

    Args:
        a: (b, *d).
        b: (b, *d).
        share: (b,) in [0, 1]; 0 is `a` and 1 is `b` to the bit.
    """
    given, a, b, share = a, in_float64(a), in_float64(b), in_float64(share)
    omega = torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1).clamp(-1, 1).arccos()
    curved = omega.sin() > 1e-6  # else the line and the arc are one
    sine = torch.where(curved, omega.sin(), 1)
    of_a = torch.where(curved, ((1 - share) * omega).sin() / sine, 1 - share)
    of_b = torch.where(curved, (share * omega).sin() / sine, share)
    return (expand_like(of_a, a) * a + expand_like(of_b, b) * b).to(given)


def between(a: Cond, b: Cond, share: PerImage) -> Cond:
    """The condition at `share` of the way from `a` to `b`: token states on the line, pooled states on the arc.

    A row at either end is the condition there itself; between them every token is seen that is a word at one end.

    Args:
        a: of b images, before any guess was made of it.
        b: the same fields.
        share: (b,) in [0, 1].
    """
    rows = share.reshape(-1, 1, 1).to(a.tokens.dtype)
    mixed = {"tokens": torch.lerp(a.tokens, b.tokens, rows)}
    if a.mask is not None and b.mask is not None:
        near_a, near_b = share[:, None] < 1, share[:, None] > 0
        mixed["mask"] = (a.mask & near_a) | (b.mask & near_b)
    if a.pooled is not None and b.pooled is not None:
        mixed["pooled"] = slerp(a.pooled, b.pooled, share)
    if a.phrases is not None and b.phrases is not None:
        both = [slerp(x, y, share) for x, y in zip(a.phrases.unbind(1), b.phrases.unbind(1), strict=True)]
        mixed["phrases"] = torch.stack(both, dim=1)
    return replace(a, **mixed)
