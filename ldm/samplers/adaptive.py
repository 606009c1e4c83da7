"""The probability-flow ODE with steps as long as an error bound allows, for each image its own."""

import math

import torch
from torch import Tensor

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent, LogSNR
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim
from ldm.samplers.loop import OnStep, Step, per_image

FIRST, SAFETY, MOST, LIMIT = 0.1, 0.9, 4.0, 10_000  # first step (nats), margin, largest growth, evaluations


def sample(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    rtol: float = 0.05,
    atol: float = 0.0078,
) -> Latent:
    """From the grid's first level to its last; the levels between do not matter, nor does their number.

    Each attempt takes one DDIM step and, with a second evaluation in its middle, one of DPM-Solver++(2S); their
    difference, in units of atol + rtol |x| as a root mean square over an image, is the error. Steps with an error up to
    1 are taken by the better of the two. Images do not wait for each other's accuracy, and lengths change by whole
    powers of the root of two, so that a seed gives the same picture in any batch. A clean end is reached from the last
    finite level by the denoiser, a start at pure noise is left by the grid's own first step.

    Source: Lu et al. 2022 (arXiv:2206.00927) section 3.4 and appendix C (DPM-Solver-12), for data prediction.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: where to start and to end, and at which levels to report.
        noise: not touched.
        on_step: called for every level of the grid that the slowest image has left.
        rtol: relative tolerance; the latents of a model have unit variance.
        atol: absolute one.

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: a tolerance is negative or both are zero, or it takes more than 10,000 evaluations.
    """
    if rtol < 0 or atol < 0 or rtol + atol == 0:
        raise ValueError(f"rtol, atol: {rtol}, {atol} are negative or both 0; 0.05 and 0.0078 are usual")
    levels = [level for level in grid.logsnr.tolist() if math.isfinite(level)]
    seen = _Reports(grid, on_step)
    if grid.logsnr[0] == -math.inf:
        x_t, x0_hat = x, denoise(x, per_image(-math.inf, x)).x0
        x = ddim.step(x_t, x0_hat, -math.inf, grid.logsnr[1].item())
        seen.left(-math.inf, x_t, x0_hat)
    if len(levels) > 1:
        x = _between(denoise, x, levels[0], levels[-1], rtol, atol, seen)
    if grid.logsnr[-1] == math.inf and levels:
        x_t, x = x, denoise(x, per_image(levels[-1], x)).x0
        seen.left(levels[-1], x_t, x)
    return x


class _Reports:
    """Tells the watcher of every level of the grid once, in order."""

    def __init__(self, grid: TimeGrid, on_step: OnStep | None):
        self.levels, self.on_step, self.index = grid.logsnr.tolist()[:-1], on_step, 0

    def left(self, level: float, x_t: Latent, x0_hat: Latent) -> None:
        while self.index < len(self.levels) and self.levels[self.index] <= level:
            if self.on_step is not None:
                self.on_step(Step(self.index, len(self.levels), self.levels[self.index], x_t, x0_hat))
            self.index += 1


def _between(
    denoise: Denoiser, x: Latent, first: float, last: float, rtol: float, atol: float, seen: _Reports
) -> Latent:
    level = torch.full((len(x),), first, dtype=torch.float64)
    length = torch.full_like(level, 2 * FIRST)
    for _ in range(LIMIT // 2):
        slowest = level.min().item()
        if slowest >= last:
            return x
        if not math.isfinite(length.sum().item()):  # what the network said is no number: so is the result
            return x * math.nan
        s = (level + length).clamp(max=last)
        s = torch.where(last - s < 1e-9, last, s)
        active = level < last
        middle = torch.where(active, (level + s) / 2, level)
        x0_hat = denoise(x, _told(level, x)).x0
        seen.left(slowest, x, x0_hat)
        low = _moved(x, x0_hat, level, s, active)
        high = _moved(x, denoise(_moved(x, x0_hat, level, middle, active), _told(middle, x)).x0, level, s, active)
        allowed = (atol + rtol * torch.maximum(low.abs(), x.abs())).clamp(min=1e-30)
        error = ((high - low) / allowed).flatten(1).cpu()  # waits for the device, as every adaptive method must
        error = error.double().square().mean(1).sqrt()
        taken = active & (error <= 1)
        x = torch.where(_rows(taken, x), high, x)
        level = torch.where(taken, s, level)
        length = length * _growth(error)
    raise ValueError(f"rtol, atol: {rtol}, {atol} need more than {LIMIT} evaluations; give larger ones")


def _growth(error: Tensor) -> Tensor:
    """By how much the next step is longer (b,): a whole power of the root of two, the largest one that is safe.

    Rounding differs with the size of a batch, and a length that follows the error continuously would carry it from step
    to step, where it grows; on a ladder it is lost at every step.
    """
    safe = (SAFETY * error.clamp(min=1e-12) ** -0.5).clamp(max=MOST)
    return 2 ** ((2 * safe.log2()).floor() / 2)


def _moved(x: Latent, x0_hat: Latent, t: Tensor, s: Tensor, active: Tensor) -> Latent:
    """A DDIM step of the images that are not there yet."""
    begin, towards = torch.where(active, t, 0.0), torch.where(active, s, 1.0)  # of the others the result is dropped
    return torch.where(_rows(active, x), ddim.step(x, x0_hat, begin, towards), x)


def _rows(mask: Tensor, x: Latent) -> Tensor:
    return mask.to(x.device).reshape(-1, *([1] * (x.ndim - 1)))


def _told(level: LogSNR, x: Latent) -> LogSNR:
    return level.to(torch.promote_types(x.dtype, torch.float32)).to(x.device)
