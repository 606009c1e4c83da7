"""Progressive distillation: what a student must say so that one step of its DDIM does what two of its teacher's do.

Source: Salimans and Ho 2022 (arXiv:2202.00512) Algorithm 2 and appendix G.
"""

import torch

from ldm.core.ranges import check_alike
from ldm.core.shapes import Latent, LogSNR
from ldm.denoiser import Denoiser
from ldm.samplers import ddim
from ldm.samplers.loop import Level, ends, times


def landing_x0(x_t: Latent, x_s: Latent, logsnr_t: Level, logsnr_s: Level) -> Latent:
    """The estimate of x_0 with which one DDIM step (eta = 0) leads from x_t at t to x_s at the cleaner level s:

        x0 = (x_s - sigma_s / sigma_t x_t) / (sqrt(alpha_bar_s) - sigma_s / sigma_t sqrt(alpha_bar_t))

    At clean data (logsnr_s = inf) that is x_s itself.

    Args:
        x_t: latents (b, *d) at level t.
        x_s: latents (b, *d) at level s.
        logsnr_t: level to leave, nats, one number or one per image.
        logsnr_s: level to reach, nats, above `logsnr_t`.

    Raises:
        ValueError: `logsnr_s` is not the cleaner level (looked at on the CPU only), or shapes differ.
    """
    check_alike(x_t=x_t, x_s=x_s)
    t, s = ends(logsnr_t, logsnr_s)
    keep = ((-s).sigmoid() / (-t).sigmoid()).sqrt()
    pull = -s.sigmoid().sqrt() * torch.expm1((t - s) / 2)  # the difference in the denominator, which may be small
    return times(1 / pull, x_s) - times(keep / pull, x_t)


@torch.no_grad()
def two_step_target(
    teacher: Denoiser, x_t: Latent, logsnr_t: LogSNR, logsnr_middle: LogSNR, logsnr_s: LogSNR
) -> Latent:
    """What a student's x0_hat(x_t) must be to land in one step where the teacher's DDIM lands in two (b, *d).

    Two evaluations of the teacher, without gradients. Any teacher will do: a guided one is distilled with its guidance.

    Args:
        teacher: (x_t, logsnr) -> Denoised, conditions bound.
        x_t: latents (b, *d).
        logsnr_t: their level (b,), nats.
        logsnr_middle: where the teacher's first step ends (b,), nats, above `logsnr_t`.
        logsnr_s: where both arrive (b,), nats, above `logsnr_middle`; all finite, or inf for all images.

    Raises:
        ValueError: levels that do not rise (looked at on the CPU only).
    """
    x_middle = ddim.step(x_t, teacher(x_t, logsnr_t).x0, logsnr_t, logsnr_middle)
    x_s = ddim.step(x_middle, teacher(x_middle, logsnr_middle).x0, logsnr_middle, logsnr_s)
    return landing_x0(x_t, x_s, logsnr_t, logsnr_s)
