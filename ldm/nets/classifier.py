"""A classifier of noisy latents: half a U-Net that is told the noise level, for classifier guidance."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ldm.core.bundle import BundleError, load_bundle
from ldm.core.config_io import ConfigError, from_dict
from ldm.core.shapes import Latent, LogSNR, PerImage
from ldm.nets.attention import zeroed
from ldm.nets.blocks import Downsample, Map, ResBlock
from ldm.nets.embeddings import VectorMLP, sinusoids

Logits = Float[Tensor, "b classes"]
END = 20.0  # nats; levels beyond are told to the network as this one
SPREAD = 25.0  # the levels then span the thousand units that suit `sinusoids`


@dataclass(frozen=True, kw_only=True)
class NoisyClassifierSpec:
    """Shape of a `NoisyClassifier`.

    Attributes:
        classes: how many it tells apart, 2 or more.
        in_channels: channels of the latents.
        channels: width of level 0, even; the embedding of the noise level is four times as wide.
        mult: width of each level in units of `channels`; each further level has half the resolution.
        blocks: residual blocks per level.
        dropout: share of activations dropped in each residual block while training, in [0, 1).
        norm_groups: groups of every group normalisation; divides every width.
    """

    kind: Literal["noisy_classifier"] = "noisy_classifier"
    classes: int
    in_channels: int = 4
    channels: int = 64
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 2
    dropout: float = 0.1
    norm_groups: int = 32

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("in_channels", 1), ("channels", 2), ("blocks", 1), ("norm_groups", 1)):
            _require(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        _require(self.channels % 2 == 0, "channels", self.channels, "even (half cosines, half sines)")
        _require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "in [0, 1)")
        _require(bool(self.mult) and min(self.mult) >= 1, "mult", self.mult, "a list of positive integers")
        fits = all(width % self.norm_groups == 0 for width in self.widths)
        _require(fits, "norm_groups", self.norm_groups, f"a divisor of every width, here {self.widths}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * m for m in self.mult)


def _require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ValueError(f"classifier.{name} is {value}; must be {allowed}")


class NoisyClassifier(nn.Module):
    """The encoder of a U-Net, averaged over the picture, and a linear layer: noisy latents and level to logits.

    The linear layer starts at zero, so that a new classifier finds all classes equally likely.

    Source: Dhariwal and Nichol 2021 (arXiv:2105.05233) section 4.1, "downsampling trunk" of a U-Net; theirs has
    attention and pools with it.
    """

    def __init__(self, spec: NoisyClassifierSpec):
        super().__init__()
        self.spec = spec
        emb_dim = 4 * spec.channels
        self.level_embed = VectorMLP(spec.channels, emb_dim)
        self.conv_in = nn.Conv2d(spec.in_channels, spec.channels, 3, padding=1)
        self.trunk = _trunk(spec, emb_dim)
        self.norm_out = nn.GroupNorm(spec.norm_groups, spec.widths[-1])
        self.head = zeroed(nn.Linear(spec.widths[-1], spec.classes))

    def forward(self, x: Map, logsnr: LogSNR) -> Logits:
        """Run the network.

        Args:
            x: noisy latents (b, in_channels, h, w) as a denoiser sees them; h, w multiples of 2^(levels - 1).
            logsnr: their level (b,), nats; below -20 and above 20, infinite too, it is told as that.

        Returns:
            Logits (b, classes).

        Raises:
            ValueError: `x` has another number of channels, or sides that cannot be halved.
        """
        multiple = 2 ** (len(self.spec.mult) - 1)
        if x.shape[1] != self.spec.in_channels:
            raise ValueError(f"x has {x.shape[1]} channels; classifier.in_channels is {self.spec.in_channels}")
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(f"x is {x.shape[2]}x{x.shape[3]}; height and width must be multiples of {multiple}")
        told = sinusoids(SPREAD * logsnr.clamp(-END, END), self.spec.channels)
        emb = F.silu(self.level_embed(told))
        x = self.conv_in(x)
        for layer in self.trunk:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return self.head(F.silu(self.norm_out(x)).mean((2, 3)))


def log_prob_of(
    classifier: Callable[[Latent, LogSNR], Tensor], labels: Int64[Tensor, " b"]
) -> Callable[[Latent, LogSNR], PerImage]:
    """The function (x_t, logsnr) -> log p(label | x_t) (b,), nats, that `classifier_guided` wants.

    Args:
        classifier: (x_t, logsnr) -> logits (b, classes), e.g. a `NoisyClassifier` in evaluation mode.
        labels: the class that each image is to be of (b,), from 0.

    Raises:
        ValueError: at the call, if `x_t` has another number of images than `labels`.
    """

    def log_prob(x_t: Latent, logsnr: LogSNR) -> PerImage:
        if len(labels) != len(x_t):
            raise ValueError(f"labels: {len(labels)} for {len(x_t)} images; give one for each image")
        logits = classifier(x_t, logsnr)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = labels.to(wide.device).clone()  # not of an inference mode around, which autograd refuses
        return wide.log_softmax(1).gather(1, own[:, None])[:, 0]

    return log_prob


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier from its bundle.

    Attributes:
        net: frozen, in evaluation mode.
        classes: names of the labels 0, 1, ...
        autoencoder: content hash of the autoencoder whose latents it understands.
        schedule: the schedule of its training levels as plain values.
        sha256: content hash of the bundle.
    """

    net: NoisyClassifier
    classes: tuple[str, ...]
    autoencoder: str
    schedule: dict[str, object]
    sha256: str


def load_classifier(path: str | Path) -> TrainedClassifier:
    """Read the bundle that `ldm.training.classifier.fit` writes.

    Raises:
        BundleError: missing, damaged, pickled, or not a classifier of this version.
    """
    bundle = load_bundle(path)
    try:
        net = NoisyClassifier(from_dict(NoisyClassifierSpec, bundle.config["net"], "net"))
        net.load_state_dict(bundle.weights)
        classes, autoencoder, schedule = (bundle.meta[name] for name in ("classes", "autoencoder", "schedule"))
    except (ConfigError, KeyError, RuntimeError) as error:
        first = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: not a classifier of this version ({first}); train it again") from error
    return TrainedClassifier(net.eval().requires_grad_(False), tuple(classes), autoencoder, schedule, bundle.sha256)


def _trunk(spec: NoisyClassifierSpec, emb_dim: int) -> nn.ModuleList:
    """Residual blocks from fine to coarse, with a step to half the resolution before each further level."""
    layers, c_in = nn.ModuleList(), spec.channels
    for level, width in enumerate(spec.widths):
        if level > 0:
            layers.append(Downsample(c_in))
        for _ in range(spec.blocks):
            layers.append(
                ResBlock(c_in, width, emb_dim, norm_groups=spec.norm_groups, dropout=spec.dropout, scale_shift=True)
            )
            c_in = width
    return layers
