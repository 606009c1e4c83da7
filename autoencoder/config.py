"""One stage-1 run as one value."""

from dataclasses import dataclass, field
from typing import Literal

from autoencoder.losses import ReconstructionSpec
from autoencoder.model import AutoencoderSpec
from ldm.core.distributed import TrainerSpec
from ldm.core.limits import at_least, run_lengths, share
from ldm.core.optim import OptimSpec
from ldm.core.precision import AUTO, Precision


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
        batch: pictures per step, of all processes together.
        crop: side of the random squares cut out of the pictures for training, pixels; null: pictures are taken whole.
            A small square costs little, so a step sees parts of many pictures. Divisible by the latent factor.
        whole: share of the steps, at the end, that take pictures whole all the same, so that attention and borders
            meet their real sizes; fewer pictures each, so that a step costs the same.
        workers: processes that load them. 0: the training process itself.
    """

    train: str = "data/emoji/train"
    val: tuple[str, ...] = ("data/emoji/heldout_cells", "data/emoji/heldout_concepts")
    size: int = 128
    batch: int = 16
    crop: int | None = None
    whole: float = 0.2
    workers: int = 0

    def __post_init__(self) -> None:
        if self.crop is not None and not 1 <= self.crop <= self.size:
            raise ValueError(f"crop: {self.crop} is outside 1 to {self.size}, the size of the pictures; or give null")
        at_least(1, size=self.size, batch=self.batch)
        at_least(0, workers=self.workers)
        share(whole=self.whole)


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Everything that decides a stage-1 run; saved, resolved, with its weights.

    Attributes:
        model: shape of the network.
        loss: the objective.
        data: the pictures.
        optim: optimiser, learning rate and length.
        trainer: how the processes work together where there are several.
        precision: Lightning's name, but not "16-mixed"; "auto": bfloat16 where the machine is faster in it.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        keep: how many checkpoints stay.
        logger: "tensorboard", or "wandb" for Weights & Biases as well.
        learn: "decoder" keeps the encoder of the bundle that the run starts from, and so its latents: what was trained
            on those stays valid while the pictures get better.
        seed: of initial weights, order of the data and noise.
    """

    model: AutoencoderSpec = field(default_factory=AutoencoderSpec)
    loss: LossSpec = field(default_factory=LossSpec)
    data: AutoencoderDataSpec = field(default_factory=AutoencoderDataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    trainer: TrainerSpec = field(default_factory=TrainerSpec)
    precision: Precision = AUTO
    validate_every: int = 500
    save_every: int = 200
    keep: int = 2
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    learn: Literal["all", "decoder"] = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        run_lengths(self)
        if self.data.crop is not None and self.data.crop % self.model.factor:
            raise ValueError(f"data.crop: {self.data.crop} is not divisible by {self.model.factor}, the latent factor")
