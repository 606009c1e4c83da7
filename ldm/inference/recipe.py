"""What a picture remembers of how it was drawn: everything that decides its pixels."""

from dataclasses import asdict
from typing import Any

import torch

from ldm.build import Model
from ldm.core.shapes import Image
from ldm.inference.pipeline import Request, resolve


def recipes(
    model: Model, request: Request, images: Image, *, dtype: torch.dtype, evaluations: float
) -> list[dict[str, Any]]:
    """One recipe for each picture of `txt2img(model, request, dtype=dtype)`, JSON values only.

    Args:
        model: that drew.
        request: what was drawn.
        images: the pictures.
        dtype: precision of the networks.
        evaluations: of the network, for each picture.
    """
    spec = asdict(resolve(model, request))
    size = {"height": images.shape[-2], "width": images.shape[-1]}
    shared = spec | size | {"dtype": str(dtype).removeprefix("torch."), "evaluations": evaluations} | _steering(request)
    return [
        {"prompt": prompt, "negative": request.negative, "seed": seed, "model": model.sha256} | shared
        for prompt, seed in zip(request.prompts, request.seeds, strict=True)
    ]


def _steering(request: Request) -> dict[str, Any]:
    """The other networks that took part."""
    used: dict[str, Any] = {}
    if (towards := request.towards) is not None:
        used |= {"classifier": towards.classifier.sha256, "label": towards.label, "classifier_scale": towards.scale}
    if (away := request.away) is not None:
        used |= {"weak": away.model.sha256, "weak_scale": away.scale}
    return used
