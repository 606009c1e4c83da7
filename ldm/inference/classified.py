"""Classifier guidance for a model: a trained classifier, the class to be drawn, and how strongly."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ldm.build import Model
from ldm.core.bundle import BundleError
from ldm.denoiser import Denoiser
from ldm.guidance.classifier import classifier_guided
from ldm.guidance.free import on_interval
from ldm.nets.classifier import TrainedClassifier, load_classifier, log_prob_of


@dataclass(frozen=True, kw_only=True)
class ClassGuidance:
    """What to steer towards.

    Attributes:
        classifier: of the latents that the model draws.
        label: one of its classes.
        scale: the lecture's gamma: 0 is no guidance, 1 is Bayes' rule, more favours what the classifier is surest of.
        noisiest: levels below, nats, are left alone: the gradient is multiplied by exp(-logsnr / 2) there, and what a
            trained classifier has of it is error.
    """

    classifier: TrainedClassifier
    label: str
    scale: float = 1.0
    noisiest: float = -4.0

    def __post_init__(self) -> None:
        if self.label not in self.classifier.classes:
            raise ValueError(
                f"label: '{self.label}' is unknown; the classifier has {', '.join(self.classifier.classes)}"
            )
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"classifier scale: {self.scale} is not a number >= 0")

    def around(self, denoise: Denoiser, count: int, device: torch.device) -> Denoiser:
        """`denoise` for `count` images, each steered towards the label."""
        labels = torch.full((count,), self.classifier.classes.index(self.label), device=device)
        guided = classifier_guided(denoise, log_prob_of(self.classifier.net, labels), self.scale)
        return on_interval(guided, denoise, self.noisiest, float("inf"))


def load_guidance(path: str | Path, model: Model, label: str, scale: float) -> ClassGuidance:
    """A classifier's bundle as guidance of `model`.

    Raises:
        BundleError: missing, damaged, of another kind, or trained on the latents of another autoencoder.
        ValueError: the label is unknown or the scale negative.
    """
    classifier = load_classifier(path)
    if classifier.autoencoder != model.latents:
        raise BundleError(f"{path}: it reads the latents of another autoencoder; train a classifier for this model")
    classifier.net.to(next(model.denoise.parameters()).device)  # moved in inference mode, they would stop gradients
    return ClassGuidance(classifier=classifier, label=label, scale=scale)
