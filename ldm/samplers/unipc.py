"""UniPC: a multistep predictor, corrected with the estimate at its arrival, which the next step needs anyway."""

import math
from collections.abc import Sequence

from ldm.core.ranges import check_alike
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.grid import TimeGrid
from ldm.samplers import ddim, exponential
from ldm.samplers.dpm_solver import Estimate, check_rising
from ldm.samplers.loop import OnStep, Step, ends, per_image, steps_of, times


def step(x_t: Latent, estimates: Sequence[Estimate], logsnr_s: float, *, arrival: Latent | None = None) -> Latent:
    """One step from the level of the first estimate to s: UniP of the order of `estimates`, or with `arrival` UniC.

        x_s = sigma_s / sigma_t x_t + sqrt(alpha_bar_s) sum_i w_i x0_hat_i

    with the weights of the polynomial through the estimates, and through `arrival`, at s. In the paper's variant B_2(h)
    = exp(h) - 1, which is used here, two estimates without arrival, or one with it, have simpler weights instead: the
    difference of the two counts by half of 1 - exp(-h) (as in DPM-Solver++(2M)).

    Source: Zhao et al. 2023 (arXiv:2302.04867) Algorithms 5-8 (data prediction).

    Args:
        x_t: latents (b, *d) at the level of the first estimate.
        estimates: the last ones with their levels, newest first; all levels finite.
        logsnr_s: level to reach, nats, finite.
        arrival: the denoiser's estimate at s (b, *d), to correct a step that was taken.

    Returns:
        x_s (b, *d).

    Raises:
        ValueError: levels do not rise from the oldest estimate to s, or shapes differ.
    """
    check_alike(x_t=x_t, arrival=arrival, **{f"estimates[{i}]": e.x0_hat for i, e in enumerate(estimates)})
    check_rising(estimates, logsnr_s)
    at, to = ends(estimates[0].logsnr, logsnr_s)
    t = float(estimates[0].logsnr)
    values = [e.x0_hat for e in estimates]
    h = (logsnr_s - t) / 2
    total = -math.expm1(-h)
    nodes = [(float(e.logsnr) - t) / (2 * h) for e in estimates[1:]]
    if arrival is not None:
        values, nodes = [*values, arrival], [*nodes, 1.0]
    if not nodes:
        found = [total]
    elif len(nodes) == 1:
        found = [total * (1 - 0.5 / nodes[0]), total * 0.5 / nodes[0]]
    else:
        found = exponential.weights(h, [0.0, *nodes])
    x_s = times(((-to).sigmoid() / (-at).sigmoid()).sqrt(), x_t)
    for weight, value in zip(found, values, strict=True):
        x_s = x_s + times(to.sigmoid().sqrt() * weight, value)
    return x_s


def sample(
    denoise: Denoiser,
    x: Latent,
    grid: TimeGrid,
    noise: NoiseStream | None = None,
    *,
    on_step: OnStep | None = None,
    order: int | float = 2,
    correct: bool | float = True,
) -> Latent:
    """Walk down the grid, one evaluation a step.

    Args:
        denoise: (x_t, logsnr) -> Denoised.
        x: latents (b, *d) at the grid's first level.
        grid: levels to visit.
        noise: not touched; the method is deterministic.
        on_step: called after each step, with the latent before its correction.
        order: of the predictor, 1 to 3 (a configuration file may make it a float); the corrector is one higher. The
            first steps are of lower order, and so are the last ones on the way to clean data.
        correct: whether arrivals are corrected; the first and infinitely long steps never are.

    Returns:
        Latents (b, *d) at the grid's last level.

    Raises:
        ValueError: `order` is not 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order: {order!r} is not possible; use 1, 2 or 3")
    known: list[Estimate] = []
    clean = grid.logsnr.tolist()[-1] == math.inf
    taken: tuple[Latent, list[Estimate]] | None = None  # the step before: where it started, and from what
    for index, logsnr_t, logsnr_s in steps_of(grid):
        x_t, x0_hat = x, denoise(x, per_image(logsnr_t, x)).x0
        if correct and taken is not None:
            x = step(*taken, logsnr_t, arrival=x0_hat)
        finite = -math.inf < logsnr_t and logsnr_s < math.inf
        known = [Estimate(x0_hat, logsnr_t), *known][: int(order)]
        used = known[: len(grid) - index] if clean else known
        taken = (x, used) if finite else None
        x = step(x, used, logsnr_s) if finite else ddim.step(x, x0_hat, logsnr_t, logsnr_s)
        if logsnr_t == -math.inf:
            known = []  # infinitely far away: it says nothing about the slope
        if on_step is not None:
            on_step(Step(index, len(grid), logsnr_t, x_t, x0_hat))
    return x
