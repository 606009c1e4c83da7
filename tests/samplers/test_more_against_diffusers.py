"""Whole runs of our samplers beside diffusers' schedulers: same network, noise and path, through the public loop.

Where a scheduler is not what its name says, the test says so and ours is checked against the analytic world.
"""

import math

import pytest
import torch

from benchmarks import rivals
from ldm.core.rng import NoiseStream
from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import TimeGrid, chosen, spaced
from ldm.process.schedule import LinearBeta, ScaledLinearBeta
from ldm.samplers import SAMPLERS, ddim, dpm_solver

SCHEDULE = ScaledLinearBeta()
DATA = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.5, 0.5], [1.0, -0.25]], dtype=torch.float64),
    torch.tensor([0.3, 0.1], dtype=torch.float64),
)
X = torch.tensor([[0.7, -0.3], [-1.2, 0.9], [0.1, 0.2]], dtype=torch.float64)


def denoise(x_t, logsnr):
    return Denoised(DATA.denoise(x_t, logsnr))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 8, 37])
@pytest.mark.parametrize(
    ("name", "options", "theirs", "their_options"),
    [
        ("unipc", {"order": 2}, "UniPCMultistepScheduler", {"solver_order": 2}),
        ("unipc", {"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3}),
        ("unipc", {"order": 1}, "UniPCMultistepScheduler", {"solver_order": 1}),
        ("euler", {}, "EulerDiscreteScheduler", {}),
        ("heun", {}, "HeunDiscreteScheduler", {}),
        ("dpm_solver", {"order": 1}, "DPMSolverMultistepScheduler", {"solver_order": 1}),
    ],
)
def test_deterministic_samplers_agree(name, options, theirs, their_options, spacing, steps):
    scheduler = rivals.configured(theirs, SCHEDULE, timestep_spacing=spacing, **their_options)
    expected = rivals.draw(scheduler, denoise, X, steps)
    timesteps = sorted({float(t) for t in scheduler.timesteps})
    assert len(timesteps) == steps
    if all(t == round(t) for t in timesteps):
        grid = chosen(SCHEDULE, [round(t) for t in timesteps])
    else:  # theirs lie between timesteps: of "linspace" in those that came from k-diffusion
        levels = -2 * torch.as_tensor(scheduler.sigmas).double().log().unique(sorted=True).flip(0)
        grid = TimeGrid(levels)
    found = SAMPLERS[name](denoise, X, grid, **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # their sigmas are float32


@pytest.mark.parametrize("order", [1, 2])
def test_the_stochastic_solver_is_theirs_noise_and_all(order):
    """sde-dpmsolver++ draws from one generator for the batch: give it the numbers that our streams draw."""
    options = {"algorithm_type": "sde-dpmsolver++", "solver_order": order, "timestep_spacing": "trailing"}
    scheduler = rivals.configured("DPMSolverMultistepScheduler", SCHEDULE, **options)
    expected = rivals.draw(scheduler, denoise, X, 12, NoiseStream([1, 2, 3]))
    grid = spaced(SCHEDULE, 12, "trailing")
    found = dpm_solver.sample(denoise, X, grid, NoiseStream([1, 2, 3]), order=order, eta=1.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_euler_ancestral_is_theirs_noise_and_all():
    scheduler = rivals.configured("EulerAncestralDiscreteScheduler", SCHEDULE, timestep_spacing="trailing")
    expected = rivals.draw(scheduler, denoise, X, 12, NoiseStream([1, 2, 3]))
    grid = spaced(SCHEDULE, 12, "trailing")
    found = SAMPLERS["euler_ancestral"](denoise, X, grid, NoiseStream([1, 2, 3]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def orders(draw, steps, exact):
    errors = [(draw(n) - exact).abs().max().item() for n in steps]
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


def even(steps):
    return TimeGrid(torch.linspace(-12, 6, steps + 1, dtype=torch.float64))


def published_third_order(x, grid):
    """DPM-Solver++(3M) as published and as diffusers has it: the second difference weighs half of what it should."""
    known = []
    for t, s in grid.steps():
        x0_hat, h = denoise(x, t.repeat(3)).x0, (s - t) / 2
        known = [(x0_hat, t / 2), *known][:3]
        if len(known) < 3:
            previous = dpm_solver.Estimate(known[1][0], 2 * known[1][1].item()) if len(known) == 2 else None
            x = dpm_solver.step(x, x0_hat, t.item(), s.item(), previous=previous)
            continue
        (m0, l0), (m1, l1), (m2, l2) = known
        r0, r1 = (l0 - l1) / h, (l1 - l2) / h
        near, far = (m0 - m1) / r0, (m1 - m2) / r1
        first, second = near + r0 / (r0 + r1) * (near - far), (near - far) / (r0 + r1)
        amplitude, phi = s.sigmoid().sqrt(), torch.expm1(-h)
        keep = ((-s).sigmoid() / (-t).sigmoid()).sqrt()
        x = keep * x - amplitude * (phi * m0 - (phi / h + 1) * first + ((phi + h) / h**2 - 0.5) * second)
    return x


def test_the_published_third_order_step_is_of_second_order_and_ours_of_third():
    exact = SAMPLERS["unipc"](denoise, X, even(2000), order=3)
    steps = [160, 320]
    assert orders(lambda n: published_third_order(X, even(n)), steps, exact) == pytest.approx(2, abs=0.15)
    ours = lambda n: dpm_solver.sample(denoise, X, even(n), order=3)  # noqa: E731
    assert orders(ours, steps, exact) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("steps", [5, 20])
def test_diffusers_third_order_is_the_published_one(steps):
    options = {"solver_order": 3, "timestep_spacing": "trailing", "lower_order_final": False}
    scheduler = rivals.configured("DPMSolverMultistepScheduler", SCHEDULE, **options, final_sigmas_type="sigma_min")
    expected = rivals.draw(scheduler, denoise, X, steps)
    levels = -2 * torch.as_tensor(scheduler.sigmas).double().log()
    if levels[-1] <= levels[-2]:
        pytest.skip("its last step has no length")
    torch.testing.assert_close(published_third_order(X, TimeGrid(levels)), expected, rtol=1e-4, atol=1e-4)


def test_their_ddim_steps_to_the_wrong_level_where_the_stride_is_no_divisor():
    """huggingface/diffusers#11347: prev = t - T // S, whatever the next timestep is. Ours goes to the next one."""
    schedule, steps = LinearBeta(steps=100), 7
    scheduler = rivals.configured("DDIMScheduler", schedule, timestep_spacing="linspace", clip_sample=False)
    theirs = rivals.draw(scheduler, denoise, X, steps)
    grid = spaced(schedule, steps, "linspace")
    exact = SAMPLERS["unipc"](denoise, X, TimeGrid(torch.linspace(grid.logsnr[0], 20.0, 2000, dtype=torch.float64)))
    ours = ddim.sample(denoise, X, grid)
    assert (ours - exact).norm() < 0.8 * (theirs - exact).norm()


@pytest.mark.parametrize("steps", [3, 7, 999, 1000])
def test_step_counts_that_others_change_are_kept(steps):
    """huggingface/diffusers#10003, CompVis/stable-diffusion#111: ours are as many, distinct, for every count."""
    grid = spaced(SCHEDULE, steps, "leading")
    assert len(grid) == steps == len(set(grid.logsnr[:-1].tolist()))
