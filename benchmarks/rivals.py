"""The schedulers of diffusers over a denoiser of ours, so that both are compared on the same network and noise.

Needs `diffusers` (a development dependency). A scheduler keeps its own loop state, so each run makes a new one.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoiser
from ldm.process.schedule import Schedule

Make = Callable[[Schedule], Any]


def configured(name: str, schedule: Schedule, **options: Any) -> Any:
    """A scheduler of diffusers with the levels of `schedule`, in float64 where it takes them.

    Args:
        name: class in `diffusers`, e.g. "DPMSolverMultistepScheduler".
        schedule: its T timesteps become theirs; the noisiest level must be finite.
        options: of the scheduler.
    """
    import diffusers

    t = torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps
    logsnr = schedule(t)
    alpha_bar = logsnr.sigmoid()
    betas = 1 - alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, name)(
            num_train_timesteps=schedule.steps, trained_betas=betas.tolist(), prediction_type="v_prediction", **options
        )
    scheduler.betas, scheduler.alphas_cumprod = betas, alpha_bar
    scheduler.alphas = 1 - betas
    scheduler.alpha_t, scheduler.sigma_t = alpha_bar.sqrt(), (-logsnr).sigmoid().sqrt()
    scheduler.lambda_t = logsnr / 2
    return scheduler


def draw(scheduler: Any, denoise: Denoiser, x: Latent, steps: int, noise: NoiseStream | None = None) -> Latent:
    """What the scheduler draws in `steps` of its steps.

    The network is asked at the level that the scheduler itself thinks it is at (its sigma where it has one), and its
    answer handed over as v, in float64.

    Args:
        scheduler: from `configured`.
        denoise: (x_t, logsnr) -> Denoised.
        x: standard normal latents (b, *d).
        steps: for `set_timesteps`.
        noise: of schedulers that draw it; one stream per image.

    Returns:
        Latents (b, *d), and how often the denoiser was asked is for the caller to count.
    """
    scheduler.set_timesteps(steps)
    sample = x.double()
    if (
        float(scheduler.init_noise_sigma) != 1
    ):  # it works on x_ve; the start that it names itself is not of unit variance
        sample = sample * (float(scheduler.sigmas[0]) ** 2 + 1) ** 0.5
    for timestep in scheduler.timesteps:
        x_t = scheduler.scale_model_input(sample, timestep)
        logsnr = _level(scheduler, timestep)
        level = torch.full((len(x),), logsnr, dtype=torch.float64)
        x0_hat = denoise(x_t.to(x.dtype), level.to(x.dtype)).x0.double()
        alpha, sigma = level[0].sigmoid().sqrt(), (-level[0]).sigmoid().sqrt()
        v = (alpha * x_t - x0_hat) / sigma
        sample = _stepped(scheduler, v, timestep, sample, noise)
    return sample.to(x.dtype)


def _stepped(scheduler: Any, v: Latent, timestep: Any, sample: Latent, noise: NoiseStream | None) -> Latent:
    """One step of theirs, with our noise: their own comes from one generator for the whole batch."""
    if noise is None:
        return scheduler.step(v, timestep, sample).prev_sample
    module: Any = sys.modules[type(scheduler).__module__]
    before = module.randn_tensor
    module.randn_tensor = lambda shape, **_: noise.normal(shape, like=sample)
    try:
        return scheduler.step(v, timestep, sample).prev_sample
    finally:
        module.randn_tensor = before


def _level(scheduler: Any, timestep: Any) -> float:
    """The level that the scheduler is at, nats."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) == len(scheduler.timesteps) + 1:
        index = scheduler.step_index
        if index is None:
            index = 0
        return float(-2 * torch.as_tensor(sigmas[index], dtype=torch.float64).log())
    alpha_bar = scheduler.alphas_cumprod[int(timestep)]
    return float(torch.logit(alpha_bar))


TRAILING = {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
KARRAS = {"use_karras_sigmas": True}
RIVALS: dict[str, tuple[str, tuple[dict[str, Any], ...], int]] = {
    # name: class, settings to choose the best of for each number of steps, evaluations a step
    "DDIM": ("DDIMScheduler", ({"clip_sample": False, **TRAILING}, {"clip_sample": False, **LINSPACE}), 1),
    "DPM-Solver++ multistep": (
        "DPMSolverMultistepScheduler",
        (TRAILING, LINSPACE, {**TRAILING, "solver_order": 3}, {**TRAILING, **KARRAS}, {"use_lu_lambdas": True}),
        1,
    ),
    "DPM-Solver++ singlestep": ("DPMSolverSinglestepScheduler", ({}, {"solver_order": 3}, KARRAS), 1),
    "UniPC": (
        "UniPCMultistepScheduler",
        (TRAILING, LINSPACE, {**TRAILING, "solver_order": 3}, {**TRAILING, **KARRAS}),
        1,
    ),
    "DEIS": ("DEISMultistepScheduler", (TRAILING, LINSPACE, {**TRAILING, "solver_order": 3}), 1),
    "LMS": ("LMSDiscreteScheduler", (TRAILING, LINSPACE, {**TRAILING, **KARRAS}), 1),
    "Euler": ("EulerDiscreteScheduler", (TRAILING, LINSPACE, {**TRAILING, **KARRAS}), 1),
    "PNDM": ("PNDMScheduler", ({"skip_prk_steps": True, **TRAILING}, {"skip_prk_steps": True}), 1),
    "Heun": ("HeunDiscreteScheduler", (TRAILING, LINSPACE, {**TRAILING, **KARRAS}), 2),
    "KDPM2": ("KDPM2DiscreteScheduler", (TRAILING, {**TRAILING, **KARRAS}), 2),
}
