"""Autoguidance from a second model folder: an earlier or a smaller network of the same latents."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ldm.build import Model
from ldm.core.bundle import BundleError
from ldm.denoiser import Denoiser, bind
from ldm.guidance.auto import autoguided
from ldm.model_folder import load_model
from ldm.nets.cond import Cond


@dataclass(frozen=True, kw_only=True)
class WeakModel:
    """What to move away from.

    Attributes:
        model: the weaker one; it reads the same prompts with its own text encoder.
        scale: 1 is the strong model alone.
    """

    model: Model
    scale: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.scale < float("inf"):
            raise ValueError(f"weak scale: {self.scale} is not a number >= 1; 1 is the strong model alone")

    def around(self, strong: Denoiser, condition: Callable[[Model], Cond]) -> Denoiser:
        """`strong`, moved away from the weak model's estimate for what that model makes of the same prompts."""
        return autoguided(strong, bind(self.model.denoise, condition(self.model)), self.scale)


def load_weak(path: str | Path, model: Model, scale: float) -> WeakModel:
    """A model folder to move `model` away from.

    Raises:
        BundleError: missing, damaged, or of other latents.
        ValueError: the scale is below 1, or the model is distilled and has no plain prediction.
    """
    weak = load_model(path)
    if weak.latents != model.latents:
        raise BundleError(f"{path}: a model of other latents; autoguidance needs the same autoencoder")
    if weak.config.net.distilled is not None:
        raise ValueError(f"{path}: a distilled model makes no plain predictions to move away from")
    return WeakModel(model=weak.to(next(model.denoise.parameters()).device), scale=scale)
