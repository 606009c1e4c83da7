"""Samplers: functions from a denoiser, noise and a grid of levels to a clean latent, found here by name."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import get_args

import torch

from ldm.core.rng import NoiseStream
from ldm.core.shapes import Latent
from ldm.denoiser import Denoised
from ldm.process.grid import TimeGrid
from ldm.samplers import adaptive, ancestral, ddim, dpm_solver, euler, heun, langevin, unipc
from ldm.samplers.loop import Sampler

SAMPLERS: dict[str, Callable[..., Latent]] = {
    "adaptive": adaptive.sample,
    "ancestral": ancestral.sample,
    "ddim": ddim.sample,
    "dpm_solver": dpm_solver.sample,
    "euler": euler.sample,
    "euler_ancestral": euler.ancestral,
    "heun": heun.sample,
    "langevin": langevin.sample,
    "predictor_corrector": langevin.predictor_corrector,
    "unipc": unipc.sample,
}

ELSEWHERE = {  # names of other programs, in small letters and without a schedule's
    **dict.fromkeys(["euler_a", "euler a", "k_euler_a", "euler ancestral"], "euler_ancestral"),
    **dict.fromkeys(["k_euler"], "euler"),
    **dict.fromkeys(["k_heun"], "heun"),
    **dict.fromkeys(
        ["dpm++ 2m", "dpmpp_2m", "dpm_2m", "dpm++", "dpm-solver++", "dpmsolver++", "dpmsolver"], "dpm_solver"
    ),
    **dict.fromkeys(["ddpm", "p_sample"], "ancestral"),
}


def options_of(name: str) -> tuple[str, ...]:
    """The names of a sampler's own options.

    Raises:
        ValueError: there is no sampler of that name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler: {name!r} is unknown; {_suggest(name, SAMPLERS)}")
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "on_step")


def bind_options(name: str, options: Mapping[str, object]) -> Sampler:
    """A sampler with its options fixed. They are tried at once, on one number, so that a bad one is refused here.

    Args:
        name: key of `SAMPLERS`.
        options: the sampler's own keyword-only options, e.g. {"eta": 0.5}.

    Raises:
        ValueError: unknown sampler, an option that it does not have, or a value that it refuses.
    """
    known, parameters = options_of(name), inspect.signature(SAMPLERS[name]).parameters
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"sampler {name}: option {option!r} is unknown; {_suggest(option, known)}")
        kinds = get_args(parameters[option].annotation) or (parameters[option].annotation,)
        if {int, float, bool}.issuperset(kinds) and not isinstance(value, int | float):
            raise ValueError(f"sampler {name}: option {option!r} is {value!r}; give a number")
    bound = partial(SAMPLERS[name], **options)
    one_step = TimeGrid(torch.tensor([0.0, math.inf], dtype=torch.float64))
    bound(lambda x_t, logsnr: Denoised(x_t), torch.zeros(1, 1), one_step, NoiseStream([0]))
    return bound


def _suggest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    elsewhere = ELSEWHERE.get(name.lower().removesuffix(" karras"))
    near = [elsewhere] if elsewhere in names else difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
