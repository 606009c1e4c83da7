"""The configuration of a Stable Diffusion model that came from elsewhere: what drawing and fine-tuning start from."""

from dataclasses import replace
from typing import Literal

from ldm.config import CodecSpec, DataSpec, PredictionSpec, RunConfig, SampleSpec, ScheduleSpec
from ldm.core.bundle import BundleError
from ldm.core.optim import OptimSpec
from ldm.model_folder import AUTOENCODER
from ldm.nets.clip import ClipSpec
from ldm.nets.unet import UNetSpec
from ldm.process.prediction import Kind
from ldm.process.schedule import ScaledLinearBeta
from ldm.process.weights import SimpleEps, SimpleV

Prediction = Literal["eps", "v"]

SCALE = 0.18215  # of the latents, in every Stable Diffusion 1 and 2
SCHEDULE = ScaledLinearBeta(steps=1000, beta_first=0.00085, beta_last=0.012)
INPAINTING = 5  # channels of condition: the mask, and the latent of the picture without what is masked

# (architecture of the text tower, layers, heads, width) of the two generations.
TOWERS = {1: ("ViT-L-14-quickgelu", 12, 12, 768), 2: ("ViT-H-14", 24, 16, 1024)}
HEAD = 64  # channels of an attention head of either tower


def text_spec(generation: int, width: int, layers: int, *, heads: int, pad: Literal["zero", "eot"]) -> ClipSpec:
    """The tower of generation 1 or 2; its shape is written down where it is not the published one.

    Args:
        generation: 1: the states of the last layer; 2: of the last but one.
        width: of the states.
        layers: with the last, which generation 2 does not use.
        heads: attention heads.
        pad: what fills a caption up.
    """
    model, *usual = TOWERS[generation]
    spec = ClipSpec(model=model, layer="last" if generation == 1 else "penultimate", pad=pad)
    if usual == [layers, heads, width]:
        return spec
    return replace(spec, width=width, layers=layers, heads=heads)


def generation_of(spec: ClipSpec) -> int:
    """1 or 2.

    Raises:
        ValueError: a tower of neither.
    """
    for generation, (model, *_) in TOWERS.items():
        layer = "last" if generation == 1 else "penultimate"
        if (spec.model, spec.layer, spec.attend, spec.pooled) == (model, layer, "all", False):
            return generation
    raise ValueError(f"text: the tower {spec.model} ({spec.layer} layer) is not that of Stable Diffusion 1 or 2")


def recipe(
    net: UNetSpec,
    text: ClipSpec,
    kind: Kind,
    *,
    size: int,
    schedule: ScheduleSpec = SCHEDULE,
    scale: float = SCALE,
    where: object = "",
) -> RunConfig:
    """The configuration of an imported model.

    Args:
        net: shape of the U-Net.
        text: the text tower.
        kind: what the network predicts.
        size: side of the pictures that it was trained on, pixels.
        schedule: level as a function of time.
        scale: factor of the latents.
        where: the file, for messages.

    Raises:
        BundleError: the parts do not fit each other.
    """
    try:
        return RunConfig(
            codec=CodecSpec(path=AUTOENCODER, scale=scale),
            schedule=schedule,
            net=net,
            text=text,
            prediction=PredictionSpec(kind=kind),
            loss=SimpleV() if kind == "v" else SimpleEps(),
            sample=SampleSpec(sampler="dpm_solver", steps=25, spacing="trailing", scale=7.5, size=size),
            data=DataSpec(size=size, batch=4, views=1),
            optim=OptimSpec(lr=1e-5),
        )
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error
