"""Walk each stretch of the path several times, so that what is drawn comes to agree with what is known."""

from dataclasses import replace

import torch

from ldm.core.gaussian import sample as draw
from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.conditionals import q_step
from ldm.process.grid import TimeGrid
from ldm.samplers.loop import OnStep, Sampler, Step, fresh, per_image


def resampled(sample: Sampler, repeats: int) -> Sampler:
    """A sampler that makes every step of `sample` `repeats` times: down, up again by fresh noise of q(x_t | x_s), down.

    With a denoiser that keeps a known part (`ldm.guidance.known.keep_known`) the rest is drawn at each level given only
    a noisy view of it. Going up and down again at the same levels is a Markov chain over the rest with a new view each
    time, so that it comes to agree with all of them. Costs `repeats` times the evaluations; multistep samplers forget
    their history at every step, and are then of first order.

    Source: Lugmayr et al. 2022 (arXiv:2201.09865) Algorithm 1, with their jump length 1.

    Args:
        sample: any sampler that walks any grid.
        repeats: 1 or more; 1 is `sample` itself.

    Raises:
        ValueError: `repeats` below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats: {repeats} is below 1; 1 walks each step once, 5 to 10 is usual")
    if repeats == 1:
        return sample

    def walk(
        denoise: Denoiser,
        x: Latent,
        grid: TimeGrid,
        noise: NoiseStream | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> Latent:
        for index in range(len(grid)):
            levels = grid.logsnr[index : index + 2]
            report = None if on_step is None else _renumbered(on_step, index, len(grid))
            for again in range(repeats):
                last = again == repeats - 1
                x = sample(denoise, x, TimeGrid(levels), noise, on_step=report if last else None)
                if not last:
                    x = _back(x, levels, noise)
        return x

    return walk


def _back(x_s: Latent, levels: torch.Tensor, noise: NoiseStream | None) -> Latent:
    """From the cleaner level of the two to the noisier one."""
    t, s = (per_image(level, x_s) for level in levels.tolist())
    return draw(q_step(x_s, s, t), fresh(noise, x_s)).to(x_s.dtype)


def _renumbered(on_step: OnStep, index: int, steps: int) -> OnStep:
    """The report of a walk of one step as that of step `index` of the whole."""

    def report(step: Step) -> object:
        return on_step(replace(step, index=index, steps=steps))

    return report
