"""One stage-1 run as one value."""

from dataclasses import dataclass, field

from autoencoder.losses import ReconstructionSpec
from autoencoder.model import AutoencoderSpec
from ldm.core.optim import OptimSpec


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """Weights of the stage-1 objective, each term per channel of a pixel.

    Attributes:
        reconstruction: the decoder's likelihood.
        kl: weight of the KL term; 1 is the ELBO of the lecture, smaller keeps more detail in the latents.
        lpips: weight of the perceptual distance (AlexNet). 0: it is only measured.
        adversarial: weight of the patch discriminator relative to the reconstruction. 0: off.
        adversarial_start: first step at which the discriminator counts.
    """

    reconstruction: ReconstructionSpec = field(default_factory=ReconstructionSpec)
    kl: float = 1e-6
    lpips: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 50_000

    def __post_init__(self) -> None:
        for name in ("kl", "lpips", "adversarial"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative; a loss weight is 0 or more")


@dataclass(frozen=True, kw_only=True)
class AutoencoderDataSpec:
    """Pictures for stage 1.

    Attributes:
        train: folder of training pictures.
        val: folders of held-out pictures.
        size: side of the squares, pixels.
        batch: pictures per step.
        workers: processes that load them. 0: the training process itself.
    """

    train: str = "data/emoji/train"
    val: tuple[str, ...] = ("data/emoji/heldout_cells", "data/emoji/heldout_concepts")
    size: int = 128
    batch: int = 16
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Everything that decides a stage-1 run; saved, resolved, with its weights.

    Attributes:
        model: shape of the network.
        loss: the objective.
        data: the pictures.
        optim: optimiser, learning rate and length.
        precision: Lightning's name, e.g. "bf16-mixed" or "32-true".
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        seed: of initial weights, order of the data and noise.
    """

    model: AutoencoderSpec = field(default_factory=AutoencoderSpec)
    loss: LossSpec = field(default_factory=LossSpec)
    data: AutoencoderDataSpec = field(default_factory=AutoencoderDataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    precision: str = "bf16-mixed"
    validate_every: int = 500
    save_every: int = 200
    seed: int = 0
