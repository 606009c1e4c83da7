"""Bits per dimension of pictures through both stages: an upper bound on -log p(x), term by term.

The model of a picture is p(x) = int p(x | z) p(z) dz. With the encoder's q(z | x), Jensen's inequality gives

    -log p(x) <= E_q(z|x) [ -log p(x | z) + log q(z | x) - log p(z) ]

and the last term is bounded by the diffusion model's own negative bound on z, decoded from its cleanest level z_first:

    -log p(z) <= E [ -log p(z | z_first) ] + sum_t E KL(q(z_s | z_t, z) || p(z_s | z_t)) + KL(q(z_1 | z) || N(0, I))

Together, with the entropy of the diagonal Gaussian q(z | x) in closed form, H = 1/2 sum log(2 pi e var):

    -log p(x) <= pixels + log_q + recon + denoise + prior,      pixels = E_q[-log p(x | z)],  log_q = -H

z is the latent at stage 2's scale in q and in p alike, so the change of scale cancels. log_q + recon + denoise + prior
is the rate: it bounds KL(q(z | x) || p(z)) from above, and of the four
log_q and recon may have either sign. p(x | z) is a
probability of 8-bit values, so that the total over the number of channel values is comparable between models.

Without an autoencoder z is the picture, and there is no `pixels` and no `log_q`.

Source: lecture, "Introduction (2)" and "VDM: ELBO (3)"; Vahdat et al. 2021 (arXiv:2106.05931) Eq. 1 to 3; Kingma et
al. 2021 (arXiv:2107.00630) section 4.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.core.gaussian import Gaussian
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Image, Latent, PerImage
from ldm.denoiser import Denoiser
from ldm.evaluation.pixels import PixelLikelihood
from ldm.evaluation.table import Row, mean_row
from ldm.losses import vlb_loss
from ldm.process.conditionals import q_sample
from ldm.process.elbo import ElboTerms, first_decoder, recon_term
from ldm.process.grid import TimeGrid
from ldm.process.schedule import Schedule
from ldm.samplers.likelihood import ode_nll, rademacher


@dataclass(frozen=True, eq=False)
class StageOne:
    """The first stage's share of the bound (b,), nats, float64.

    Attributes:
        pixels: -log p(x | z) for one draw of z.
        log_q: E_q log q(z | x), minus the entropy.
    """

    pixels: PerImage
    log_q: PerImage


@dataclass(frozen=True, eq=False)
class PictureBound:
    """The bound of each picture by term (b,), nats.

    Attributes:
        size: values in a picture, channels times pixels.
        pixels, log_q: of the first stage, zero without one.
        latent: of the second.
    """

    size: int
    pixels: PerImage
    log_q: PerImage
    latent: ElboTerms

    @property
    def total(self) -> PerImage:
        """The negative bound."""
        return self.pixels + self.log_q + self.latent.total

    @property
    def bits_per_dim(self) -> PerImage:
        """The negative bound in bits for each value of a picture."""
        return self.total / (self.size * math.log(2))


def stage_one(
    decode: Callable[[Latent], Image], image: Image, posterior: Gaussian, z: Latent, likelihood: PixelLikelihood
) -> StageOne:
    """Decode a draw of the latents and score it.

    Args:
        decode: z to the mean of p(x | z), at the scale of `posterior`.
        image: pictures in [-1, 1]; on the values of `likelihood` if it is discretised.
        posterior: q(z | x).
        z: one draw from it (b, *d), which the second stage must score too.
        likelihood: p(x | z).

    Raises:
        ValueError: the posterior has a variance of zero and so no entropy.
    """
    if not bool((posterior.var > 0).all()):
        raise ValueError("posterior: it has a variance of 0; for diffusion on pixels leave the first stage out")
    var = posterior.var.cpu().double().expand(posterior.mean.shape)
    entropy = 0.5 * (math.log(2 * math.pi * math.e) + var.log()).flatten(1).sum(1)
    return StageOne(likelihood.nll(image, decode(z)).cpu(), -entropy)


@torch.no_grad()
def estimated_terms(
    denoise: Denoiser,
    z: Latent,
    schedule: Schedule,
    noise: NoiseStream,
    *,
    steps: int | None,
    draws: int,
    values: int | None = None,
) -> ElboTerms:
    """The second stage's terms (b,), nats, float64, the denoising ones estimated from `draws` levels a picture.

    Levels are stratified, t = (j + u) / draws with a uniform u for each j, so that `draws` = `steps` - 1 visits every
    term of the discrete bound once. The mean is right for any number of draws.

    Args:
        denoise: conditions bound.
        z: latents (b, *d).
        schedule: the levels.
        noise: one stream per latent.
        steps: T, or None for the continuous bound; see `vlb_loss`.
        draws: evaluations of the denoiser, 1 or more.
        values: how many values an element of `z` can have, where z are pixels in [-1, 1]; None: z has a density.
    """
    if draws < 1:
        raise ValueError(f"draws: {draws} is below 1; each draw is one evaluation of the denoiser")
    found = []
    for j in range(draws):
        u = noise.uniform((len(z),)).to(device=z.device, dtype=torch.promote_types(z.dtype, torch.float32))
        eps = noise.normal(z.shape, like=z)
        terms = vlb_loss(denoise, z, eps, ((j + u) / draws).clamp(max=1 - 1e-7), schedule, steps=steps)
        recon = terms.recon
        if values is not None:
            first = schedule(torch.full_like(u, 0.0 if steps is None else 1 / steps))
            recon = recon_term(z, first_decoder(q_sample(z, eps, first), first), values)
        found.append(torch.stack([recon, terms.prior, terms.denoise]).cpu().double())
    return ElboTerms(*torch.stack(found).mean(0).unbind())


def flow_terms(denoise: Denoiser, z: Latent, grid: TimeGrid, noise: NoiseStream, *, probes: int = 1) -> ElboTerms:
    """-log p(z) by the probability flow (b,), nats, float64, all in `recon`; an estimate, no bound on the flow itself.

    The flow has a density of z at the grid's cleanest level, z_first, not of z. Decoding z from z_first by
    `first_decoder`, whose density differs from q(z_first | z) by the change of scale alone, leaves

        -log p(z) <= E[ -log p(z_first) ] - d/2 log alpha_bar_first

    Args:
        denoise: conditions bound, differentiable.
        z: latents (b, *d).
        grid: finite levels, noise first.
        noise: one stream per latent.
        probes: of the divergence, 1 or more.
    """
    last = grid.logsnr[-1].to(device=z.device, dtype=z.dtype).expand(len(z))
    z_first = q_sample(z, noise.normal(z.shape, like=z), last)
    nats = ode_nll(denoise, z_first, grid, rademacher(noise, z, probes)).cpu().double()
    nats = nats - 0.5 * z[0].numel() * F.logsigmoid(grid.logsnr[-1])
    return ElboTerms(nats, torch.zeros_like(nats), torch.zeros_like(nats))


def joined(parts: Sequence[PictureBound]) -> PictureBound:
    """Batches as one.

    Raises:
        ValueError: no part.
    """
    if not parts:
        raise ValueError("parts: no pictures were measured; give at least one")

    def joint(values: Callable[[PictureBound], Tensor]) -> Tensor:
        return torch.cat([values(part) for part in parts])

    latent = ElboTerms(
        joint(lambda p: p.latent.recon), joint(lambda p: p.latent.prior), joint(lambda p: p.latent.denoise)
    )
    return PictureBound(parts[0].size, joint(lambda p: p.pixels), joint(lambda p: p.log_q), latent)


def bits_rows(pictures: str, bound: PictureBound, latent: str | None = None) -> list[Row]:
    """Every term and the total in bits per dimension of the picture, means over pictures with standard errors.

    Args:
        pictures: their name in the table.
        bound: measured.
        latent: name for all of the second stage's terms together; None lists them.
    """
    named = {"pixels, -log p(x|z)": bound.pixels, "-entropy of q(z|x)": bound.log_q}
    if latent is None:
        named["latent, decoding"] = bound.latent.recon
        named["latent, denoising"] = bound.latent.denoise
        named["latent, prior"] = bound.latent.prior
    else:
        named[latent] = bound.latent.total
    named["total"] = bound.total
    bits = bound.size * math.log(2)
    return [mean_row(pictures, f"{name} (bits/dim)", values / bits) for name, values in named.items()]
