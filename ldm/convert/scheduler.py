"""The scheduler's configuration in a diffusers folder: schedule and prediction, and back."""

from pathlib import Path
from typing import Any

from ldm.config import RunConfig, ScheduleSpec
from ldm.convert.folder_checks import DIFFUSERS, Config, check_fixed, reading
from ldm.convert.recipe import Prediction
from ldm.process.prediction import Kind
from ldm.process.schedule import LinearBeta, ScaledLinearBeta, Tabulated
from ldm.process.zero_terminal import ZeroTerminal

KINDS: dict[str, Kind] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULER_FIXED: dict[str, Any] = {"use_flow_sigmas": False}


def process(config: Config, where: Path, asked: Prediction | None) -> tuple[ScheduleSpec, Kind | None]:
    """Schedule and prediction of `scheduler/scheduler_config.json`, which may be empty: then the prediction is `asked`.

    Raises:
        BundleError: a schedule that is not known here.
    """
    check_fixed(config, SCHEDULER_FIXED, where / "scheduler")
    path = where / "scheduler" / "scheduler_config.json"
    kind: Kind | None = asked
    if kind is None and config:
        kind = reading(lambda: _kind(config), path)
    schedule = reading(lambda: _schedule(config), path)
    return schedule, kind


def _kind(config: Config) -> Kind:
    said = config.get("prediction_type", "epsilon")
    if not isinstance(said, str) or said not in KINDS:
        raise ValueError(f"prediction_type is {said!r}; known are {', '.join(KINDS)}")
    return KINDS[said]


def _schedule(config: Config) -> ScheduleSpec:
    rule = config.get("beta_schedule", "scaled_linear" if not config else "linear")
    steps = int(config.get("num_train_timesteps", 1000))
    ends = {"steps": steps, "beta_first": config.get("beta_start", 1e-4), "beta_last": config.get("beta_end", 0.02)}
    if not config:
        return ScaledLinearBeta()
    base: ScaledLinearBeta | LinearBeta | Tabulated
    if config.get("trained_betas"):
        base = Tabulated(betas=tuple(config["trained_betas"]))
    elif rule == "scaled_linear":
        base = ScaledLinearBeta(**ends)
    elif rule == "linear":
        base = LinearBeta(**ends)
    else:
        raise ValueError(f"beta_schedule is {rule!r}; scaled_linear and linear can be read")
    return ZeroTerminal(base=base) if config.get("rescale_betas_zero_snr") else base


def scheduler_config(config: RunConfig) -> dict[str, Any]:
    """`scheduler/scheduler_config.json`: DDIM as Stable Diffusion uses it.

    Raises:
        ValueError: a schedule or a prediction that diffusers' DDIM does not have.
    """
    schedule, zero = config.schedule, isinstance(config.schedule, ZeroTerminal)
    base = schedule.base if isinstance(schedule, ZeroTerminal) else schedule
    names = {kind: name for name, kind in KINDS.items()}
    if config.prediction.kind not in names:
        raise ValueError(f"prediction.kind: '{config.prediction.kind}' is not known to diffusers' DDIM")
    if not isinstance(base, ScaledLinearBeta | LinearBeta | Tabulated):
        raise ValueError(f"schedule: '{base.kind}' is no table of betas, as diffusers' DDIM needs it")
    betas: dict[str, Any] = {"trained_betas": None}
    if isinstance(base, Tabulated):
        betas |= {"trained_betas": list(base.betas)}
    else:
        rule = "scaled_linear" if isinstance(base, ScaledLinearBeta) else "linear"
        betas |= {"beta_schedule": rule, "beta_start": base.beta_first, "beta_end": base.beta_last}
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": DIFFUSERS,
        "num_train_timesteps": base.steps,
        **betas,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "trailing" if zero else "leading",
        "prediction_type": names[config.prediction.kind],
        "rescale_betas_zero_snr": zero,
    }
