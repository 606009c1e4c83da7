"""The bound of a Markovian hierarchical VAE: a chain of latents of any size, of which VAE and diffusion are instances.

    log p(x) >= E_q [ log p(z_T) + sum_{t=2}^T log p(z_{t-1} | z_t) + log p(x | z_1)
                      - log q(z_1 | x) - sum_{t=2}^T log q(z_t | z_{t-1}) ]

Source: lecture, "Introduction" (Markovian hierarchical VAE); Luo 2022 (arXiv:2208.11970), "Hierarchical Variational
Autoencoders". Here x is z_0, and a level's distribution is a function of the state next to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.core.gaussian import Gaussian, kl, log_prob, sample, standard_normal_like
from ldm.core.ranges import check_cleaner
from ldm.core.shapes import LogSNR, PerImage, expand_like
from ldm.process.conditionals import q_posterior, q_step
from ldm.process.elbo import ElboTerms, first_decoder, recon_term
from ldm.process.variance import posterior

State = Float[Tensor, "b ..."]  # the data or the latents of one level; each level has a shape of its own
Conditional = Callable[[Tensor], Gaussian]  # state (b, ...) to the Gaussian of its neighbour
LogLikelihood = Callable[[Tensor, Tensor], PerImage]  # (x, z_1) to log p(x | z_1), nats (b,)
Estimate = Callable[[Tensor, LogSNR], Tensor]  # (x_t, logsnr) to x0_hat
StepVariance = Callable[[LogSNR, LogSNR], PerImage]  # (logsnr_s, logsnr_t) to the variance of p(x_s | x_t)


@dataclass(frozen=True, eq=False, kw_only=True)
class Hierarchy:
    """T levels of latents as functions; plain ones or networks.

    With T = 1 it is a VAE: one encoder, no `decoders`. With encoders of equal dimension that only add noise it is a
    diffusion model: `diffusion`.

    Args:
        encoders: q(z_1 | x), q(z_2 | z_1), ..., q(z_T | z_{T-1}).
        decoders: p(z_1 | z_2), ..., p(z_{T-1} | z_T), one fewer.
        log_likelihood: log p(x | z_1), not necessarily Gaussian.
        prior: p(z_T) in the shape of the z_T that it is given, whose numbers it does not look at.

    Raises:
        ValueError: no encoder, or not one decoder fewer.
    """

    encoders: tuple[Conditional, ...]
    decoders: tuple[Conditional, ...]
    log_likelihood: LogLikelihood
    prior: Conditional = standard_normal_like

    def __post_init__(self) -> None:
        if len(self.encoders) < 1:
            raise ValueError("encoders: none given; a hierarchy has at least one level (T = 1 is a VAE)")
        if len(self.decoders) != len(self.encoders) - 1:
            raise ValueError(
                f"decoders: {len(self.decoders)} for {len(self.encoders)} levels; give one fewer than levels,"
                " p(x | z_1) is log_likelihood"
            )

    def __len__(self) -> int:
        """T, the number of levels."""
        return len(self.encoders)


def gaussian_likelihood(decoder: Conditional) -> LogLikelihood:
    """log p(x | z_1) for a Gaussian decoder of z_1."""
    return lambda x, z: log_prob(decoder(z), x)


def encode(hierarchy: Hierarchy, x: State, eps: Sequence[State]) -> tuple[State, ...]:
    """One draw of all latents, z_t = mean(z_{t-1}) + std(z_{t-1}) eps_t, differentiable in the encoders.

    Args:
        x: data (b, ...).
        eps: standard normals, one of each level's shape (b, ...), z_1's first.

    Returns:
        (z_1, ..., z_T).

    Raises:
        ValueError: not one `eps` for each level.
    """
    return _draw(hierarchy, x, eps)[0]


def log_joint(hierarchy: Hierarchy, x: State, states: Sequence[State]) -> PerImage:
    """log p(x, z_1, ..., z_T) of the decoder chain, nats (b,). A density, so its unit depends on that of the states."""
    total = hierarchy.log_likelihood(x, states[0]) + log_prob(hierarchy.prior(states[-1]), states[-1])
    for decode, (below, above) in zip(hierarchy.decoders, pairwise(states), strict=True):
        total = total + log_prob(decode(above), below)
    return total


def log_encoder(hierarchy: Hierarchy, x: State, states: Sequence[State]) -> PerImage:
    """log q(z_1, ..., z_T | x) of the encoder chain, nats (b,)."""
    chain = zip(hierarchy.encoders, pairwise([x, *states]), strict=True)
    return torch.stack([log_prob(encoder(below), above) for encoder, (below, above) in chain]).sum(0)


def bound(hierarchy: Hierarchy, x: State, eps: Sequence[State]) -> PerImage:
    """Monte Carlo estimate of the evidence lower bound from one draw per image, nats (b,); to be made large.

    Unbiased for the bound, and its gradient for the bound's, in the weights of encoders and decoders. Nothing is
    integrated analytically: `consistency_terms` and `denoising_terms` have the same mean and less noise.

    Args:
        x: data (b, ...).
        eps: as for `encode`.

    Raises:
        ValueError: not one `eps` for each level.
    """
    states, drawn_from = _draw(hierarchy, x, eps)
    of_encoder = torch.stack([log_prob(q, z) for q, z in zip(drawn_from, states, strict=True)]).sum(0)
    return log_joint(hierarchy, x, states) - of_encoder


def consistency_terms(hierarchy: Hierarchy, x: State, eps: Sequence[State]) -> ElboTerms:
    """The negative bound by term, for any hierarchy; its expectation is that of `bound`.

        recon   = -log p(x | z_1)
        prior   = KL(q(z_T | z_{T-1}) || p(z_T))
        denoise = sum_{t=1}^{T-1} [ log q(z_t | z_{t-1}) - log p(z_t | z_{t+1}) ]

    With T = 1 the last is zero and the other two are a VAE's, exactly as autoencoders are trained. The last is no KL
    and may be negative: z_{t+1} depends on z_t, so it cannot be integrated with z_{t+1} held fixed.

    Source: Luo 2022 (arXiv:2208.11970), the first decomposition of "Variational Diffusion Models" (reconstruction,
    prior matching, consistency), with its consistency term left as the expectation that it is.

    Args:
        x: data (b, ...).
        eps: as for `encode`.

    Raises:
        ValueError: not one `eps` for each level.
    """
    states, drawn_from = _draw(hierarchy, x, eps)
    recon = -hierarchy.log_likelihood(x, states[0])
    consistency = torch.zeros_like(recon)
    for q, decode, (below, above) in zip(drawn_from[:-1], hierarchy.decoders, pairwise(states), strict=True):
        consistency = consistency + log_prob(q, below) - log_prob(decode(above), below)
    return ElboTerms(recon, kl(drawn_from[-1], hierarchy.prior(states[-1])), consistency)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reversal:
    """An encoder chain read from its far end, for encoders where Bayes' rule has a closed form.

        q(z_1, ..., z_T | x) = q(z_T | x) prod_{t=2}^T q(z_{t-1} | z_t, x)

    Args:
        last: x to q(z_T | x).
        steps: (x, z_t) to q(z_{t-1} | z_t, x), for t = 2, ..., T.
    """

    last: Conditional
    steps: tuple[Callable[[Tensor, Tensor], Gaussian], ...]


def log_reversal(reversal: Reversal, x: State, states: Sequence[State]) -> PerImage:
    """log q(z_1, ..., z_T | x) by the posteriors, nats (b,): the same number as `log_encoder` of the same chain.

    Source: lecture, "VDM: ELBO (1)" and "(2)", where the marginals cancel between neighbours.
    """
    total = log_prob(reversal.last(x), states[-1])
    for step, (below, above) in zip(reversal.steps, pairwise(states), strict=True):
        total = total + log_prob(step(x, above), below)
    return total


def denoising_terms(hierarchy: Hierarchy, reversal: Reversal, x: State, eps: Sequence[State]) -> ElboTerms:
    """The negative bound by term where the encoders can be reversed; its expectation is that of `bound`.

        recon   = -log p(x | z_1)
        prior   = KL(q(z_T | x) || p(z_T))
        denoise = sum_{t=2}^T KL(q(z_{t-1} | z_t, x) || p(z_{t-1} | z_t))

    Every KL is analytic, with its condition drawn. Source: lecture, "VDM: ELBO (3)" and "Loss terms".

    Args:
        reversal: of `hierarchy`'s encoders.
        x: data (b, ...).
        eps: as for `encode`.

    Raises:
        ValueError: not one `eps` for each level.
    """
    states = encode(hierarchy, x, eps)
    recon = -hierarchy.log_likelihood(x, states[0])
    denoise = torch.zeros_like(recon)
    for step, decode, above in zip(reversal.steps, hierarchy.decoders, states[1:], strict=True):
        denoise = denoise + kl(step(x, above), decode(above))
    return ElboTerms(recon, kl(reversal.last(x), hierarchy.prior(states[-1])), denoise)


def diffusion(estimate: Estimate, logsnr: Float[Tensor, " levels"], *, variance: StepVariance = posterior) -> Hierarchy:
    """A variational diffusion model as a hierarchy: encoders that only scale and add noise, all states of one shape.

    The encoders are `q_step`, the decoders have the mean of `q_posterior` at the estimate of x_0, p(z_T) is N(0, I) and
    p(x | z_1) is `first_decoder`; `dataclasses.replace` puts another `log_likelihood`.

    Source: lecture, "Variational Diffusion Models" (three properties that a hierarchy must have to be one).

    Args:
        estimate: (x_t, logsnr) -> x0_hat.
        logsnr: levels of z_1, ..., z_T, nats, strictly falling.
        variance: of the decoders: `posterior`, `upper` or an `AnalyticVariance`.

    Raises:
        ValueError: levels that do not fall (looked at on the CPU only, see `ldm.core.ranges`).
    """
    check_cleaner(logsnr[:-1], logsnr[1:])
    levels = list(logsnr.unbind())

    def encoder(s: Tensor, t: Tensor) -> Conditional:
        return lambda x_s: q_step(x_s, _rows(s, x_s), _rows(t, x_s))

    def decoder(s: Tensor, t: Tensor) -> Conditional:
        def reverse(x_t: Tensor) -> Gaussian:
            level_s, level_t = _rows(s, x_t), _rows(t, x_t)
            mean = q_posterior(estimate(x_t, level_t), x_t, level_s, level_t).mean
            return Gaussian(mean, expand_like(variance(level_s, level_t), x_t))

        return reverse

    return Hierarchy(
        encoders=tuple(encoder(s, t) for s, t in pairwise([torch.full_like(levels[0], torch.inf), *levels])),
        decoders=tuple(decoder(s, t) for s, t in pairwise(levels)),
        log_likelihood=lambda x, z: -recon_term(x, first_decoder(z, _rows(levels[0], z))),
    )


def diffusion_reversal(logsnr: Float[Tensor, " levels"]) -> Reversal:
    """The encoders of `diffusion` from their far end: q(x_T | x_0) and `q_posterior`, whatever the estimate."""

    def step(s: Tensor, t: Tensor) -> Callable[[Tensor, Tensor], Gaussian]:
        return lambda x, x_t: q_posterior(x, x_t, _rows(s, x), _rows(t, x))

    def last(x: Tensor) -> Gaussian:
        return q_step(x, torch.full_like(_rows(logsnr[-1], x), torch.inf), _rows(logsnr[-1], x))

    return Reversal(last=last, steps=tuple(step(s, t) for s, t in pairwise(logsnr.unbind())))


def _draw(hierarchy: Hierarchy, x: State, eps: Sequence[State]) -> tuple[tuple[State, ...], tuple[Gaussian, ...]]:
    """(z_1, ..., z_T) and the encoders' Gaussians that they were drawn from."""
    if len(eps) != len(hierarchy):
        raise ValueError(f"eps: {len(eps)} noises for {len(hierarchy)} levels; give one for each, z_1's first")
    states, drawn_from = [x], []
    for encoder, noise in zip(hierarchy.encoders, eps, strict=True):
        drawn_from.append(encoder(states[-1]))
        states.append(sample(drawn_from[-1], noise))
    return tuple(states[1:]), tuple(drawn_from)


def _rows(level: Tensor, x: Tensor) -> LogSNR:
    """A scalar level for every image of `x`, in its dtype and on its device."""
    return level.to(x).expand(len(x))
