"""Progressive distillation: a student learns guidance first, then to do in one step what took two, again and again.

One network goes through all stages and keeps every number of steps that it has learned, for it reads the length of the
step that it is asked for (`Cond.stride`), as it reads the guidance scale (`Cond.scale`).

Source: Salimans and Ho 2022 (arXiv:2202.00512) Algorithm 2; guidance first, Meng et al. 2023 (arXiv:2210.03142)
section 3; the length of the step as an input, Frans et al. 2024 (arXiv:2410.12557).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import lightning
import torch
from torch import Tensor

from ldm.build import Model
from ldm.config import DataSpec, RunConfig
from ldm.core.checkpoints import use_settings
from ldm.core.ema import Ema
from ldm.core.limits import run_lengths
from ldm.core.optim import OptimSpec, adamw, clip, scheduled
from ldm.core.precision import AUTO, Precision
from ldm.core.rng import NoiseStream, fold
from ldm.data.latents import Batch
from ldm.denoiser import bind
from ldm.nets.cond import Cond
from ldm.nets.text import ClipSpec
from ldm.process.conditionals import q_sample
from ldm.process.weights import SimpleV
from ldm.training.lessons import Guidance, Halving, Lesson, Shortcuts
from ldm.training.module import conditions

# "Numbers of steps" of the first stage, in which only guidance is learned, and of the last, in which all are.
GUIDANCE, TOGETHER = 0, -1


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """A whole distillation.

    Attributes:
        teacher: model folder; its network predicts v or x0.
        first: steps of the first student after guidance, a power of two times `last`; its teacher walks twice as many.
        last: steps of the last student.
        scales: range of guidance scales that the student learns.
        scale: the one that it draws with by default.
        rehearsed: share of a batch that goes over what was learned in former stages, in [0, 1).
        together: whether a last stage goes over all numbers of steps at once, the most from the teacher, the others
            from the student itself: what a stage learned fades in those after it.
        init: distilled model folder to go on from; only that last stage is then run. "": none.
        shared: whether the student's folder uses the autoencoder in the teacher's folder instead of a copy, and holds
            8 bits a weight.
        data: pictures and captions; the student learns from posterior means.
        optim: of each stage.
        precision: as in `RunConfig`.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        seed: order of the data and noise.
    """

    teacher: str = "models/emoji"
    first: int = 32
    last: int = 1
    scales: tuple[float, float] = (1.0, 4.0)
    scale: float = 2.0
    rehearsed: float = 0.25
    together: bool = False
    init: str = ""
    shared: bool = False
    data: DataSpec = field(default_factory=DataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    precision: Precision = AUTO
    validate_every: int = 500
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        run_lengths(self)
        lowest, highest = self.scales
        if not 0 <= lowest < highest:
            raise ValueError(f"scales: {self.scales} do not rise from 0 or more; give the range to learn, e.g. [1, 4]")
        if not lowest <= self.scale <= highest:
            raise ValueError(f"scale: {self.scale} is outside of scales, {self.scales}")
        if not 0 <= self.rehearsed < 1:
            raise ValueError(f"rehearsed: {self.rehearsed} is not in [0, 1); it is a share of the batch")
        ratio = self.first // self.last if self.last >= 1 else 0
        if ratio < 1 or self.first != self.last * ratio or ratio & (ratio - 1):
            raise ValueError(f"first, last: {self.first} halved again and again does not give {self.last}")
        if self.init and not self.together:
            raise ValueError("init: a distilled model only goes through the last stage; set together to true")

    @property
    def halvings(self) -> tuple[int, ...]:
        """All numbers of steps that the student learns, the most first."""
        counts = [self.first]
        while counts[-1] > self.last:
            counts.append(counts[-1] // 2)
        return tuple(counts)

    @property
    def stages(self) -> tuple[int, ...]:
        """Steps of the student of each stage, `GUIDANCE` before the others and `TOGETHER` after them."""
        if self.init:
            return (TOGETHER,)
        return (GUIDANCE, *self.halvings, *([TOGETHER] if self.together else []))


def student_config(config: RunConfig, distill: DistillConfig) -> RunConfig:
    """The configuration of a student of a model with `config`.

    Raises:
        ValueError: the model predicts noise or score, from which no clean latent follows at pure noise; it learns its
            variance or its text encoder; it is an upscaler; or it is distilled already.
    """
    if config.prediction.kind not in ("v", "x0"):
        raise ValueError(
            f"teacher: it predicts {config.prediction.kind}, which says nothing about the clean latent at pure noise;"
            " fine-tune it to v first"
        )
    if config.low is not None:
        raise ValueError("teacher: an upscaler draws in few steps as it is, and cannot be distilled")
    if config.prediction.learned_variance or config.net.distilled is not None:
        raise ValueError("teacher: a model with a learned variance, or one that is distilled, cannot be distilled")
    if isinstance(config.text, ClipSpec) and config.text.trainable:
        raise ValueError(
            "teacher: its text encoder learns with the U-Net (text.trainable), and a student reads frozen states; "
            "distil a model with a frozen text encoder"
        )
    return replace(
        config,
        net=replace(config.net, distilled=distill.scales),
        sample=replace(
            config.sample, sampler="ddim", options={}, steps=distill.last, spacing="trailing", scale=distill.scale
        ),
        data=distill.data,
        optim=distill.optim,
        precision=distill.precision,
        seed=distill.seed,
    )


class Distillation(lightning.LightningModule):
    """One stage: the student learns from a teacher that stays as it is.

    Args:
        student: built from `student_config`; its network is trained.
        teacher: the student as it left the former stage; for `GUIDANCE` and `TOGETHER` the undistilled model.
        stage: steps that the student learns to draw in, `GUIDANCE` or `TOGETHER`.
        config: the distillation.
    """

    def __init__(self, student: Model, teacher: Model, stage: int, config: DistillConfig):
        super().__init__()
        self.strict_loading = False  # a checkpoint leaves out what is frozen
        self.student, self.stage, self.config = student, stage, config
        self.net = student.denoise.net
        self.teacher, self.teacher_net = teacher, teacher.denoise.net.requires_grad_(False).eval()
        self.guess = student.guess
        self.ema = Ema(student.learned(), config.optim.ema)
        with torch.inference_mode():
            null = student.condition([""])
        self._null = null.map(lambda tensor: tensor.clone())
        self.lesson = self._lesson()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Squared error of the student's v against what its teacher says."""
        loss = self.loss(batch, NoiseStream([fold(self.config.seed, "distill", self.stage, self.global_step)])).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The same with the averaged weights and fixed noise, on pictures that were not learned from."""
        with self.ema.applied():
            loss = self.loss(batch, NoiseStream([fold(self.config.seed, "val", self.stage, batch_index)]))
        self.log("val/loss", loss.mean(), batch_size=len(loss), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW at the configured rate."""
        return scheduled(adamw(self.student.learned(), self.config.optim), self.config.optim)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """After the optimiser, the average."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update()

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Shorten gradients that are longer than the configured norm."""
        clip(self.trainer, optimizer, self.config.optim)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averaged weights, and of the others only those that are trained."""
        checkpoint["ema"] = self.ema.state_dict()
        frozen = ("teacher_net.", "guess.")
        checkpoint["state_dict"] = {n: w for n, w in checkpoint["state_dict"].items() if not n.startswith(frozen)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the averaged weights, with the optimiser as it is configured now."""
        self.ema.load_state_dict(checkpoint["ema"])
        use_settings(checkpoint, self.config.optim)

    def loss(self, batch: Batch, noise: NoiseStream) -> Tensor:
        """Error of each latent's noisy copy (b,)."""
        b = len(batch["mean"])
        x0 = batch["mean"]
        eps = noise.normal((1, *x0.shape), like=x0[None])[0]
        u, pick, scale_at = (noise.uniform((1, b))[0].to(x0.device) for _ in range(3))
        lowest, highest = self.config.scales
        cond = replace(self._read(batch), scale=lowest + (highest - lowest) * scale_at)
        logsnr, target, stride = self.lesson(x0, eps, u, pick, cond)
        x_t = q_sample(x0, eps, logsnr)
        found = bind(self.student.denoise, replace(cond, stride=stride))(x_t, logsnr).x0
        weight = SimpleV()(logsnr, torch.zeros_like(logsnr))
        return weight * ((found - target) ** 2).flatten(1).mean(1)

    def _lesson(self) -> Lesson:
        schedule, counts = self.student.schedule, self.config.halvings
        guidance = Guidance(self.teacher.denoise, self._null, schedule)
        if self.stage == GUIDANCE:
            return guidance
        if self.stage == TOGETHER:
            return Shortcuts(guidance, self.student.denoise, self.ema.applied, schedule, counts)
        former = [n for n in counts if n > self.stage]
        return Halving(self.teacher.denoise, schedule, self.stage, former, self.config.rehearsed)

    def _read(self, batch: Batch) -> Cond:
        cond = conditions(batch)
        if self.guess is None:
            return cond
        with torch.no_grad():
            return self.guess.into(cond)
