"""Learn a sampler of few steps by differentiating the quality of its samples through it (DDSS).

Source: Watson et al. 2022 (arXiv:2202.05830): the kernel distance between features of samples and of data, by
gradient descent on levels and weights, with the network frozen and its activations computed anew on the way back.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.core.shapes import Latent, LogSNR
from ldm.denoiser import Denoised, Denoiser
from ldm.evaluation.features import Features
from ldm.evaluation.frechet import squared_mmd
from ldm.samplers.learned import Coefficients, sample


class LearnableCoefficients(nn.Module):
    """Coefficients as parameters: steps of the level by their logarithm, so that levels rise whatever is learned.

    The first level stays where it is: it is the noise that sampling starts from.

    Args:
        start: where learning begins.
    """

    first: Tensor

    def __init__(self, start: Coefficients):
        super().__init__()
        self.register_buffer("first", start.logsnr[:1].detach().clone())
        self.log_rise = nn.Parameter(start.logsnr.detach().diff().log())
        self.keep = nn.Parameter(start.keep.detach().clone())
        self.pull = nn.Parameter(start.pull.detach().clone())

    def forward(self) -> Coefficients:
        """The sampler they are now."""
        levels = torch.cat([self.first, self.first + self.log_rise.exp().cumsum(0)])
        return Coefficients(levels, self.keep, self.pull.tril())


def learn_sampler(
    denoise: Denoiser,
    start: Coefficients,
    noise: Callable[[int], Latent],
    real: Callable[[int], Features],
    features: Callable[[Latent], Features],
    *,
    steps: int,
    lr: float = 5e-3,
) -> Coefficients:
    """Descend the kernel distance between samples and data.

    Args:
        denoise: (x_t, logsnr) -> Denoised, differentiable; its parameters need no gradient.
        start: e.g. `like_dpm_solver` of the best grid of as many steps.
        noise: step number to latents at the first level, 2 or more.
        real: step number to features of data, fresh ones each step.
        features: of samples, differentiable: of what the latents decode to, by a network that knows pictures.
        steps: of Adam.
        lr: its first learning rate, which falls to 0 along half a cosine.

    Returns:
        The learned sampler, without gradients.

    Raises:
        ValueError: `steps` below 1, or the distance is not finite.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps}; give 1 or more")
    learned = LearnableCoefficients(start)
    optimizer = torch.optim.Adam(learned.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def again(x_t: Latent, logsnr: LogSNR) -> Denoised:
        return Denoised(checkpoint(lambda x, level: denoise(x, level).x0, x_t, logsnr, use_reentrant=False))

    for index in range(steps):
        loss = squared_mmd(features(sample(again, noise(index), learned())), real(index))
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"step {index}: the distance is not finite; lower lr ({lr})")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = learned()
    return Coefficients(found.logsnr.detach(), found.keep.detach(), found.pull.detach())
