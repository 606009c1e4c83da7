"""What a student of a distillation is taught: levels, the estimates that are right there, and the stride it is told.

Each lesson is a function (x0, eps, u, pick, cond) -> (logsnr, target, stride): clean latents and noise (b, *d), two
uniform numbers for each of them (b,), and their conditions with a guidance scale. The student then sees x0 and eps
mixed at `logsnr` (b,), is told `stride` (b,), the share of the path that its step is long, and should say `target`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ldm.core.shapes import Latent, LogSNR, PerImage
from ldm.denoiser import CondDenoiser, Denoised, Denoiser, bind
from ldm.guidance.combine import extrapolated
from ldm.nets.cond import Cond, concatenate
from ldm.process.conditionals import q_sample
from ldm.process.grid import spaced
from ldm.process.schedule import Schedule
from ldm.samplers.distilled import two_step_target

Taught = tuple[LogSNR, Latent, PerImage]


@runtime_checkable
class Lesson(Protocol):
    """See the head of this file."""

    def __call__(self, x0: Latent, eps: Latent, u: PerImage, pick: PerImage, cond: Cond) -> Taught: ...


class Guidance:
    """The undistilled teacher's guided estimate, at any level, in one evaluation. `pick` is not used.

    Source: Meng et al. 2023 (arXiv:2210.03142) section 3.

    Args:
        teacher: the undistilled network.
        null: the empty prompt (1, ...).
        schedule: level as a function of time, which is u.
    """

    def __init__(self, teacher: CondDenoiser, null: Cond, schedule: Schedule):
        self.teacher, self.null, self.schedule = teacher, null, schedule

    @torch.no_grad()
    def __call__(self, x0: Latent, eps: Latent, u: PerImage, pick: PerImage, cond: Cond) -> Taught:
        logsnr = self.schedule(u)
        return logsnr, self.guided(cond)(q_sample(x0, eps, logsnr), logsnr).x0, torch.zeros_like(u)

    def guided(self, cond: Cond) -> Denoiser:
        """The teacher with classifier-free guidance at the scales (b,) of `cond`."""
        assert cond.scale is not None
        rule, plain = extrapolated(cond.scale), replace(cond, scale=None)
        null = self.null.map(lambda row: row.to(plain.tokens.device).expand(len(plain), *row.shape[1:]))
        both = bind(self.teacher, concatenate([plain, null]))

        def denoise(x_t: Latent, logsnr: LogSNR) -> Denoised:
            strong, weak = both(torch.cat([x_t, x_t]), logsnr.repeat(2)).x0.chunk(2)
            return Denoised(rule(strong, weak))

        return denoise


class Halving:
    """Steps twice as long as the teacher's, one for two; some rows go over the strides of former stages.

    The first rows are new. The last ones, a share of `rehearsed`, go over the former strides, where the teacher's own
    estimate is the target.

    Source: Salimans and Ho 2022 (arXiv:2202.00512) Algorithm 2.

    Args:
        teacher: the student as it left the former stage.
        schedule: level as a function of time.
        steps: of the student along the whole path; the teacher's are twice as many.
        former: steps that were learned before; the first teacher of all knows no stride and is told 0.
        rehearsed: share of the rows, in [0, 1).
    """

    def __init__(
        self, teacher: CondDenoiser, schedule: Schedule, steps: int, former: Sequence[int] = (), rehearsed: float = 0.0
    ):
        self.teacher, self.schedule, self.steps = teacher, schedule, steps
        self.former, self.rehearsed = tuple(former), rehearsed
        self.paths = Paths(schedule, [steps])

    @torch.no_grad()
    def __call__(self, x0: Latent, eps: Latent, u: PerImage, pick: PerImage, cond: Cond) -> Taught:
        new = len(u) - int(self.rehearsed * len(u)) if self.former else len(u)
        steps = torch.full_like(u, self.steps)
        t, middle, s = self.paths(torch.zeros_like(u[:new]).long(), u[:new])
        half = 1 / (2 * self.steps) if self.former else 0.0
        rows = cond.map(lambda value: value[:new])
        teach = bind(self.teacher, replace(rows, stride=torch.full_like(u[:new], half)))
        target = two_step_target(teach, q_sample(x0[:new], eps[:new], t), t, middle, s)
        if new == len(u):
            return t, target, 1 / steps
        which = (pick[new:] * len(self.former)).long()
        steps[new:] = torch.tensor(self.former, dtype=u.dtype, device=u.device)[which]
        total, index = self.schedule.steps, (u[new:] * steps[new:]).floor() + 1
        level = self.schedule((total * index / steps[new:] + 0.5).floor() / total)  # a timestep, as `spaced` gives
        rows = replace(cond.map(lambda value: value[new:]), stride=1 / steps[new:])
        known = bind(self.teacher, rows)(q_sample(x0[new:], eps[new:], level), level).x0
        return torch.cat([t, level]), torch.cat([target, known]), 1 / steps


class Shortcuts:
    """All strides at once: the shortest steps from the guided teacher, the others from the student's own two of half.

    The first rows, as many as their share, take the shortest steps; the others any of the longer ones.

    Source: Frans et al. 2024 (arXiv:2410.12557) section 3.2, with a teacher where the paper has data.

    Args:
        guidance: the undistilled teacher.
        student: the network that learns.
        averaged: a block in which the network that learns has its averaged weights.
        schedule: level as a function of time.
        steps: along the whole path, the most first, each half of the one before.
    """

    def __init__(
        self,
        guidance: Guidance,
        student: CondDenoiser,
        averaged: Callable[[], AbstractContextManager[None]],
        schedule: Schedule,
        steps: Sequence[int],
    ):
        self.guidance, self.student, self.averaged = guidance, student, averaged
        self.steps, self.paths = tuple(steps), Paths(schedule, steps)

    @torch.no_grad()
    def __call__(self, x0: Latent, eps: Latent, u: PerImage, pick: PerImage, cond: Cond) -> Taught:
        short = len(u) if len(self.steps) == 1 else -(-len(u) // len(self.steps))
        which = torch.zeros_like(u).long()
        which[short:] = 1 + (pick[short:] * (len(self.steps) - 1)).long()
        strides = 1 / torch.tensor(self.steps, dtype=u.dtype, device=u.device)[which]
        t, middle, s = self.paths(which, u)
        x_t = q_sample(x0, eps, t)
        first = self.guidance.guided(cond.map(lambda value: value[:short]))
        target = two_step_target(first, x_t[:short], t[:short], middle[:short], s[:short])
        if short < len(u):
            rows = replace(cond.map(lambda value: value[short:]), stride=strides[short:] / 2)
            with self.averaged():
                own = two_step_target(bind(self.student, rows), x_t[short:], t[short:], middle[short:], s[short:])
            target = torch.cat([target, own])
        return t, target, strides


class Paths:
    """The levels of steps on trailing paths, with one in their middle.

    Args:
        schedule: level as a function of time.
        steps: numbers of steps of the paths.
    """

    def __init__(self, schedule: Schedule, steps: Sequence[int]):
        grids = [spaced(schedule, 2 * n, "trailing").logsnr for n in steps]
        self.steps = tuple(steps)
        self.levels = torch.nn.utils.rnn.pad_sequence(grids, batch_first=True).float()

    def __call__(self, which: Tensor, u: PerImage) -> tuple[LogSNR, LogSNR, LogSNR]:
        """Level to leave, middle and level to reach (b,) of step floor(u n) of path `which` (b,), of n steps."""
        levels = self.levels.to(u.device)[which]
        first = 2 * (u * torch.tensor(self.steps, dtype=u.dtype, device=u.device)[which]).long()[:, None]
        t, middle, s = (levels.gather(1, first + i)[:, 0] for i in range(3))
        return t, middle, s
