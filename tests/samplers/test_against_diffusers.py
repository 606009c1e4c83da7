"""Our samplers and diffusers' schedulers, step for step, on paths where diffusers takes the right previous step."""

import pytest
import torch

from ldm.denoiser import Denoised
from ldm.process.exact import GaussianMixture
from ldm.process.grid import chosen, spaced
from ldm.process.schedule import ScaledLinearBeta
from ldm.samplers import ancestral, ddim, dpm_solver

SCHEDULE = ScaledLinearBeta()
DATA = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.5, 0.5], [1.0, -0.25]], dtype=torch.float64),
    torch.tensor([0.3, 0.1], dtype=torch.float64),
)
X = torch.tensor([[0.7, -0.3], [-1.2, 0.9], [0.1, 0.2]], dtype=torch.float64)
COMMON = {"trained_betas": SCHEDULE.beta_table(), "prediction_type": "sample"}


def denoise(x_t, logsnr):
    return Denoised(DATA.denoise(x_t, logsnr))


def in_double(scheduler):
    """The scheduler's table is made in float32; put the same table there in float64."""
    betas = torch.tensor(SCHEDULE.beta_table(), dtype=torch.float64)
    scheduler.alphas_cumprod = (1 - betas).cumprod(0)
    return scheduler


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(steps, eta):
    from diffusers import DDIMScheduler

    theirs = in_double(DDIMScheduler(**COMMON, clip_sample=False, timestep_spacing="leading"))
    theirs.set_timesteps(steps)
    grid = spaced(SCHEDULE, steps, "leading")
    x = X
    for (t, s), timestep in zip(grid.steps(), theirs.timesteps, strict=True):
        x0_hat, z = denoise(x, t.repeat(3)).x0, torch.randn_like(x)
        expected = theirs.step(x0_hat, timestep, x, eta=eta, variance_noise=z).prev_sample
        x = ddim.step(x, x0_hat, t.item(), s.item(), eta=eta, z=z)
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("ours", "name"), [("posterior", "fixed_small"), ("upper", "fixed_large")])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ancestral(steps, ours, name):
    from diffusers import DDPMScheduler

    theirs = in_double(DDPMScheduler(**COMMON, variance_type=name, clip_sample=False, timestep_spacing="leading"))
    theirs.set_timesteps(steps)
    theirs_noise, our_noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    grid = spaced(SCHEDULE, steps, "leading")
    x = X
    for (t, s), timestep in zip(grid.steps(), theirs.timesteps, strict=True):
        x0_hat = denoise(x, t.repeat(3)).x0
        z = None if s.isinf() else torch.randn(x.shape, generator=our_noise, dtype=x.dtype)
        expected = theirs.step(x0_hat, timestep, x, generator=theirs_noise).prev_sample
        x = ancestral.step(x, x0_hat, t.item(), s.item(), variance=ours, z=z)
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 8, 20, 37])
def test_dpm_solver(steps, spacing):
    from diffusers import DPMSolverMultistepScheduler

    theirs = in_double(DPMSolverMultistepScheduler(**COMMON, timestep_spacing=spacing))
    theirs.set_timesteps(steps)
    grid = chosen(SCHEDULE, sorted(theirs.timesteps.tolist()))
    expected, states = X, []
    for t, timestep in zip(grid.logsnr, theirs.timesteps, strict=False):
        states.append(expected)
        expected = theirs.step(denoise(expected, t.repeat(3)).x0, timestep, expected).prev_sample
    seen = []
    x = dpm_solver.sample(denoise, X, grid, on_step=lambda step: seen.append(step.x_t))
    for ours, state in zip([*seen, x], [*states, expected], strict=True):
        torch.testing.assert_close(ours, state, rtol=1e-5, atol=1e-5)  # their sigmas are float32
