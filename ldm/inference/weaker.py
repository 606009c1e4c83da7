"""Autoguidance from a second model: an earlier or a smaller network of the same latents."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ldm.build import Model
from ldm.convert.opening import is_native, open_model
from ldm.convert.recipe import Prediction
from ldm.core.bundle import BundleError
from ldm.denoiser import Denoiser, bind
from ldm.guidance.auto import autoguided
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


def load_weak(
    path: Path, model: Model, scale: float, *, prediction: Prediction | None = None, allow_pickle: bool = False
) -> WeakModel:
    """A model to move `model` away from, in any layout.

    Args:
        path: a model folder, a file or a folder of diffusers.
        model: the strong one.
        scale: 1 is the strong model alone.
        prediction: what the network predicts, where a file does not say.
        allow_pickle: read pickled files too.

    Raises:
        BundleError: missing, damaged, or of other latents.
        ValueError: the scale is below 1, or the model is distilled and has no plain prediction.
    """
    weak = open_model(path, prediction=None if is_native(path) else prediction, allow_pickle=allow_pickle)
    if weak.latents != model.latents:
        raise BundleError(f"{path}: a model of other latents; autoguidance needs the same autoencoder")
    if weak.config.net.distilled is not None:
        raise ValueError(f"{path}: a distilled model makes no plain predictions to move away from")
    return WeakModel(model=weak.to(next(model.denoise.parameters()).device), scale=scale)
