"""At which levels guidance matters to where a sampler ends; at the others one of its two evaluations is saved."""

from dataclasses import replace

from ldm.build import Model, build_grid, chosen_by
from ldm.core.shapes import Latent
from ldm.evaluation.drawing import Drawing, distance_of
from ldm.guidance.spec import GuidanceSpec
from ldm.samplers.tuned import Choice, Tuned

TOLERATED = 1.02  # times the distance that is there with guidance at all levels
MARGIN = 1e-3  # nats; networks are told levels in float32


def with_interval(choice: Choice, model: Model, drawn: Drawing, end: Latent, tuned: Tuned) -> Choice:
    """`choice` with guidance at the fewest of its levels that end about as near to the exact latents.

    Levels are left out one by one, first from the clean end, then from the noisy one, while the distance stays within
    2 % of what it is with all of them. What is left out needs one evaluation instead of two.

    Args:
        choice: a sampler, its steps and guidance scale.
        model: that it was measured with.
        drawn: captions and their noise.
        end: the exact latents of those (b, *d), with guidance at all levels.
        tuned: tables of the model, for their paths.
    """
    if choice.scale == 1:
        return choice  # there is no guidance
    tuned = replace(tuned, choices=(choice,))
    spec = chosen_by(choice, replace(model.config.sample, steps=choice.steps, scale=choice.scale))
    levels = build_grid(spec, model.schedule, tuned).logsnr.tolist()[:-1]
    limit = TOLERATED * distance_of(spec, model, drawn, end, tuned)
    first, last = 0, len(levels) - 1

    def near(first: int, last: int) -> bool:
        guidance = GuidanceSpec(lo=levels[first] - MARGIN, hi=levels[last] + MARGIN)
        return distance_of(replace(spec, guidance=guidance), model, drawn, end, tuned) <= limit

    while last > first and near(first, last - 1):
        last -= 1
    while first < last and near(first + 1, last):
        first += 1
    lo = None if first == 0 else levels[first] - MARGIN
    hi = None if last == len(levels) - 1 else levels[last] + MARGIN
    return replace(choice, lo=lo, hi=hi)
