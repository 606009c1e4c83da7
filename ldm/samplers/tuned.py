"""What was measured of one model for its samplers: variances of the reverse step, and the best path of each length.

It lies beside the model as `tuned.json` and names the model by its content hash.
"""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ldm.core.bundle import write_atomically
from ldm.core.config_io import ConfigError, from_dict, to_dict
from ldm.process.grid import Spacing, TimeGrid, TunedSpacing, chosen
from ldm.process.schedule import Schedule
from ldm.process.variance import AnalyticVariance
from ldm.samplers.learned import Coefficients, remembered

TUNED, FORMAT = "tuned.json", "ldm-tuned-1"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What draws best in a number of steps, as measured against exact trajectories.

    Attributes:
        steps: network evaluations along the path.
        scale: guidance scale it was measured with.
        sampler: name of a solver, for any number of steps near this one, with its usual options.
        spacing: its path.
        distance: how far from the exact latents it ends, root mean square.
        matched: the same for the fitted sampler of the next fields; 0 where there is none.
        logsnr: levels of the fitted sampler, noise first.
        keep: its weights of the latent.
        recent: its weights of estimates (`ldm.samplers.learned.remembered`).
        lo: noisiest level at which guidance matters, nats; None: all noisy ones matter.
        hi: cleanest level at which it does; None: all clean ones.
    """

    steps: int
    scale: float
    sampler: str
    spacing: Spacing | TunedSpacing
    distance: float
    matched: float = 0.0
    logsnr: tuple[float, ...] = ()
    keep: tuple[float, ...] = ()
    recent: tuple[tuple[float, ...], ...] = ()
    lo: float | None = None
    hi: float | None = None

    def __post_init__(self) -> None:
        if self.logsnr:
            self.coefficients()

    def coefficients(self) -> Coefficients:
        """The fitted sampler.

        Raises:
            ValueError: there is none, or its numbers do not fit each other.
        """
        if len(self.logsnr) != self.steps:
            raise ValueError(f"choices: {len(self.logsnr)} fitted levels for {self.steps} steps; tune again")
        return remembered(self.logsnr, self.keep, self.recent)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Tables of one model.

    Attributes:
        variance: gamma at each measured level; it holds the model's content hash.
        timesteps: the measured timesteps 0 .. T - 1 of the model's schedule, rising, one for each of those levels.
        paths: the best path of 1, 2, ... steps, as timesteps, for `ldm.process.grid.chosen`.
        nats: what each path costs in the bound, without the prior term, mean over pictures.
        pictures: how many were measured.
        ode: the path of 1, 2, ... steps with the least local error of an ODE sampler (`ldm.evaluation.truncation`).
        choices: what draws best in which number of steps and at which guidance scale.

    Raises:
        ValueError: the tables disagree with each other.
    """

    variance: AnalyticVariance
    timesteps: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    nats: tuple[float, ...]
    pictures: int
    ode: tuple[tuple[int, ...], ...] = ()
    choices: tuple[Choice, ...] = ()

    def __post_init__(self) -> None:
        if len(self.timesteps) != len(self.variance.logsnr):
            raise ValueError(f"timesteps: {len(self.timesteps)} for {len(self.variance.logsnr)} measured levels")
        if len(self.paths) != len(self.nats):
            raise ValueError(f"nats: {len(self.nats)} for {len(self.paths)} paths; give one for each")
        known = set(self.timesteps)
        for name, paths in (("paths", self.paths), ("ode", self.ode)):
            for steps, path in enumerate(paths, start=1):
                if list(path) != sorted(set(path)):
                    raise ValueError(f"{name}[{steps - 1}]: {path} are not rising timesteps, each once")
                if len(path) != steps or not known.issuperset(path):
                    raise ValueError(f"{name}[{steps - 1}]: {path} are not {steps} of the measured timesteps")

    @property
    def model(self) -> str:
        """Content hash of the model that was measured."""
        return self.variance.model

    def choice(self, steps: int, scale: float) -> Choice | None:
        """The measured choice nearest in scale, then in steps; None if none was measured."""
        nearest = lambda c: (abs(c.scale - scale), abs(math.log(c.steps / steps)))  # noqa: E731
        return min(self.choices, key=nearest, default=None)

    def fitted(self, steps: int, scale: float) -> Coefficients:
        """The fitted sampler of exactly `steps` steps, of the measured scale nearest to `scale`.

        Raises:
            ValueError: none was fitted for this number of steps.
        """
        found = [c for c in self.choices if c.steps == steps and c.logsnr]
        if not found:
            known = sorted({c.steps for c in self.choices if c.logsnr})
            raise ValueError(f"steps: no fitted sampler of {steps} steps; there are those of {known or 'none'}")
        return min(found, key=lambda c: abs(c.scale - scale)).coefficients()

    def grid(self, schedule: Schedule, steps: int, spacing: TunedSpacing = "tuned") -> TimeGrid:
        """The levels of the best path of `steps` steps, ending at clean data.

        Args:
            schedule: the measured model's.
            steps: 1 to the number of paths.
            spacing: best for the bound ("tuned") or for an ODE sampler ("tuned_ode").

        Raises:
            ValueError: no path of that length was measured.
        """
        paths = self.paths if spacing == "tuned" else self.ode
        if not paths:
            raise ValueError(f"spacing: these tables have no paths for '{spacing}'; run scripts/tune_sampler.py again")
        if not 1 <= steps <= len(paths):
            raise ValueError(f"steps: {steps} is not in 1..{len(paths)}, the tuned paths; tune with more levels")
        return chosen(schedule, paths[steps - 1])


def save_tuned(folder: Path, tuned: Tuned) -> Path:
    """Write `tuned.json` beside the model, atomically; returns its path.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / TUNED
    write_atomically(path, json.dumps({"format": FORMAT} | to_dict(tuned)).encode())
    return path


def load_tuned(folder: Path, model: str) -> Tuned:
    """Read the tables of the model in `folder`.

    Args:
        folder: of the model.
        model: its content hash, `Model.sha256`.

    Raises:
        ValueError: there are none, they are damaged, or they were measured on another model.
    """
    path = folder / TUNED
    again = f"run scripts/tune_sampler.py --model {folder}"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {again}")
    stamp = path.stat()
    try:
        tuned = _read(path, stamp.st_mtime_ns, stamp.st_size)
    except (UnicodeDecodeError, json.JSONDecodeError, ConfigError) as error:
        raise ValueError(f"{path}: not tables of this version ({error}); {again}") from error
    if tuned.model != model:
        raise ValueError(f"{path}: measured on model {tuned.model[:12]}, but this is {model[:12]}; {again}")
    return tuned


def forget_others(folder: Path, model: str) -> None:
    """Remove tables that were measured on another model than `model`, which now lies in `folder`, or cannot be read.

    Beside a model that they do not belong to, they would only refuse its drawing.
    """
    try:
        load_tuned(folder, model)
    except ValueError:
        (folder / TUNED).unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> Tuned:
    """The tables in a file; every drawing asks for them, but they are read again only after they changed."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ConfigError("it has another format")
    return from_dict(Tuned, found, "tuned")
