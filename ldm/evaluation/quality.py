"""Which sampler ends nearest to the exact latents in how many steps: the table behind the automatic choice."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ldm.build import Model
from ldm.config import SampleSpec
from ldm.evaluation.drawing import Drawing, distance_of, drawing
from ldm.evaluation.guided_levels import with_interval
from ldm.evaluation.matched import Trajectories, best_paths, fit, follow
from ldm.process.grid import Spacing, TunedSpacing, chosen
from ldm.samplers.tuned import Choice, Tuned

STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)  # for which a sampler is chosen and fitted
SOLVERS = ("dpm_solver", "unipc")
SPACINGS: tuple[Spacing | TunedSpacing, ...] = ("trailing", "uniform_logsnr", "tuned_ode")
POWERS = (0.0, 1.0, 2.0)  # how much misses at clean levels count more, in the search for a path
DIGITS = 7


def choices(
    model: Model, captions: Sequence[str], tuned: Tuned, scales: Sequence[float], seed: int
) -> Iterator[Choice]:
    """The best of the solvers, a fitted sampler where it is better, and where to guide, for all steps and scales.

    Args:
        model: from `load_model`; not a distilled one, whose steps have fixed levels.
        captions: drawn to measure on.
        tuned: the paths that are known; its timesteps are the nodes of the exact trajectories.
        scales: of guidance.
        seed: of the noise.

    Raises:
        ValueError: the model is distilled.
    """
    if model.config.net.distilled is not None:
        raise ValueError("quality: a distilled model draws with the steps it was taught; there is nothing to choose")
    fine = chosen(model.schedule, tuned.timesteps)
    for scale in scales:
        drawn = drawing(model, captions, scale, seed)
        exact = follow(drawn.denoise, drawn.x, fine)
        fitted = [best_paths(exact, max(STEPS), power) for power in POWERS]
        for steps in STEPS:
            solver = _best_solver(model, drawn, exact, tuned, steps, scale)
            choice = _with_fit(solver, drawn, exact, {paths[steps - 1] for paths in fitted})
            yield with_interval(choice, model, drawn, exact.at[-1], tuned)


def _best_solver(model: Model, drawn: Drawing, exact: Trajectories, tuned: Tuned, steps: int, scale: float) -> Choice:
    found = []
    for name in SOLVERS[:1] if steps == 1 else SOLVERS:
        for spacing in SPACINGS[:1] if steps == 1 else SPACINGS:
            spec = SampleSpec(sampler=name, steps=steps, spacing=spacing, scale=scale)
            distance = distance_of(spec, model, drawn, exact.at[-1], tuned)
            found.append(Choice(steps=steps, scale=scale, sampler=name, spacing=spacing, distance=distance))
    return min(found, key=lambda choice: choice.distance)


def _with_fit(solver: Choice, drawn: Drawing, exact: Trajectories, paths: set[tuple[float, ...]]) -> Choice:
    """`solver`, with the best fitted sampler beside it if that one ends nearer."""
    coefficients, distance = min((fit(drawn.denoise, path, exact) for path in sorted(paths)), key=lambda f: f[1])
    if distance >= solver.distance:
        return solver
    rows: list[list[float]] = [coefficients.keep.tolist(), *coefficients.recent()]
    rounded = [[float(f"{w:.{DIGITS}g}") for w in row] for row in rows]
    return replace(
        solver,
        matched=distance,
        logsnr=tuple(coefficients.logsnr.tolist()),
        keep=tuple(rounded[0]),
        recent=tuple(tuple(row) for row in rounded[1:]),
    )
