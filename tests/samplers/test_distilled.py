"""Progressive distillation: a student that says the target does in half the steps exactly what its teacher does."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid, uniform_logsnr
from ldm.process.schedule import Cosine
from ldm.samplers import ddim
from ldm.samplers.distilled import landing_x0, two_step_target

SCHEDULE = Cosine(logsnr_min=-9.0, logsnr_max=9.0)
WORLD = GaussianMixture(
    torch.tensor([0.6, 0.4], dtype=torch.float64),
    torch.tensor([[1.0, 0.5], [-1.0, 1.0]], dtype=torch.float64),
    torch.full((2,), 0.05, dtype=torch.float64),
)


def teacher(x_t, logsnr):
    return Denoised(WORLD.denoise(x_t, logsnr))


def normals(n=6):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def halved(denoise, grid):
    """The perfect student of `denoise` on every other level of `grid`."""
    levels = grid.logsnr.tolist()
    after = {levels[i]: levels[i + 1 : i + 3] for i in range(0, len(grid), 2)}

    def student(x_t, logsnr):
        middle, arrival = (torch.full_like(logsnr, level) for level in after[logsnr[0].item()])
        return Denoised(two_step_target(denoise, x_t, logsnr, middle, arrival))

    return student, TimeGrid(grid.logsnr[::2])


@pytest.mark.parametrize("end", [9.0, math.inf])
def test_students_of_students_end_where_the_first_teacher_does(end):
    """16 -> 8 -> 4 -> 2 -> 1 steps: the last one is the whole walk in one evaluation."""
    denoise, grid, x = teacher, uniform_logsnr(SCHEDULE, 16, end=end), normals()
    reference = ddim.sample(denoise, x, grid)
    while len(grid) > 1:
        denoise, grid = halved(denoise, grid)
        torch.testing.assert_close(ddim.sample(denoise, x, grid), reference, rtol=1e-10, atol=1e-12)


@given(st.floats(-15, 14), st.floats(0.01, 10))
def test_landing_is_the_inverse_of_a_step(logsnr_t, rise):
    x_t, x0 = normals(), normals().flip(0)
    x_s = ddim.step(x_t, x0, logsnr_t, logsnr_t + rise)
    torch.testing.assert_close(landing_x0(x_t, x_s, logsnr_t, logsnr_t + rise), x0, rtol=1e-10, atol=1e-12)
    assert torch.equal(landing_x0(x_t, x0, logsnr_t, math.inf), x0)


def test_it_is_the_formula_of_the_paper():
    t, s = torch.tensor([-2.0, 0.5], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)
    x_t, x_s = normals(2), normals(4)[2:]
    a_t, a_s = (level.sigmoid().sqrt()[:, None] for level in (t, s))
    ratio = ((-s).sigmoid() / (-t).sigmoid()).sqrt()[:, None]
    expected = (x_s - ratio * x_t) / (a_s - ratio * a_t)
    torch.testing.assert_close(landing_x0(x_t, x_s, t, s), expected, rtol=1e-12, atol=0)


def test_a_teacher_that_knows_the_answer_is_its_own_student():
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    levels = [torch.full((6,), level, dtype=torch.float64) for level in (-4.0, -1.0, 2.0)]
    target = two_step_target(lambda x_t, _: Denoised(point.expand_as(x_t)), normals(), *levels)
    torch.testing.assert_close(target, point.expand(6, 2), rtol=1e-10, atol=0)


def test_a_linear_student_of_a_gaussian_teacher_has_no_loss_left():
    """For Gaussian data the teacher is linear in x_t, and so is its target: least squares leaves nothing."""
    one = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.tensor([[0.5]], dtype=torch.float64),
        torch.tensor([[0.2]], dtype=torch.float64),
    )
    x_t = torch.randn(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    levels = [torch.full((200,), level, dtype=torch.float64) for level in (-3.0, -1.0, 1.5)]
    target = two_step_target(lambda x, level: Denoised(one.denoise(x, level)), x_t, *levels)
    design = torch.cat([x_t, torch.ones_like(x_t)], dim=1)
    left = target - design @ torch.linalg.lstsq(design, target).solution
    assert left.abs().max() < 1e-12
