"""Stage 2 as a Lightning module: wires data, denoiser and loss, and owns no maths."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch
from torch import Tensor

from ldm.build import Model
from ldm.core.checkpoints import use_settings
from ldm.core.compiled import CompiledSteps, cannot_compile
from ldm.core.distributed import world
from ldm.core.ema import Ema
from ldm.core.gaussian import Gaussian, sample
from ldm.core.optim import adamw, clip, lay_out, scheduled
from ldm.core.rng import NoiseStream, fold
from ldm.core.sharded import MESH, share_out
from ldm.data.latents import OF_PICTURE, PICTURE, Batch
from ldm.denoiser import CondDenoiser, Denoiser, bind
from ldm.losses import denoising_loss, hybrid_loss
from ldm.nets.blocks import Layer
from ldm.nets.cond import Cond, where
from ldm.nets.guess import noisy
from ldm.nets.low import Low, noised, version
from ldm.process.conditionals import q_sample
from ldm.training.datamodule import cacheable, encoded
from ldm.training.guess import UnseenGuesses

LEVELS = 4  # equal parts of t in which the loss is logged


@dataclass(frozen=True)
class Kept:
    """What fine-tuning is to leave as it was: the last rows of every batch.

    Attributes:
        rows: how many.
        before: the model before fine-tuning, whose estimates are the goal there; None: the pictures themselves are.
    """

    rows: int
    before: CondDenoiser | None = None


class LatentDiffusion(lightning.LightningModule):
    """Trains and validates the denoiser of a `Model` on cached latents.

    Args:
        model: built for training; its codec stays outside of this module, and so does a text encoder that is frozen.
        kept: rows of the batches that only hold the model where it is.
        unseen: makes the guesses of a share of the rows in training.
    """

    def __init__(
        self,
        model: Model,
        kept: Kept | None = None,
        unseen: UnseenGuesses | None = None,
    ):
        super().__init__()
        self.strict_loading = False  # a checkpoint leaves out what is frozen
        self.model, self.kept = model, kept
        self.denoise = model.denoise
        self.learned, self.guess, self.unseen = model.learned(), model.guess, unseen
        self.ema = Ema(self.learned, model.config.optim.ema)
        with torch.inference_mode():
            null = cacheable(model, [""])
        self._null = null.map(lambda tensor: tensor.clone())
        self._seen: tuple[Tensor, Tensor] | None = None  # losses and times of the last step
        self._compiled: Callable[[], AbstractContextManager[None]] = nullcontext

    def configure_model(self) -> None:
        """Share out the weights, where the strategy is to."""
        if self.device_mesh is not None:
            layers = [module for module in self.denoise.net.modules() if isinstance(module, Layer)]
            share_out(self.denoise.net, layers, self.device_mesh[MESH])
            self.ema.follow()

    def on_train_start(self) -> None:
        """Go on from the moments of another strategy."""
        for optimizer in self.trainer.optimizers:
            lay_out(optimizer)

    def on_fit_start(self) -> None:
        """Compile the U-Net for the steps, where that is asked for and can be."""
        if not self.model.config.compile:
            return
        shared_out = "weights that are shared out are gathered layer by layer, which is not compiled"
        why = shared_out if self.device_mesh is not None else cannot_compile(self.device)
        if why:
            self.print(f"compile: {why}; training goes on without")
        else:
            self._compiled = CompiledSteps(self.denoise.net)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The weighted denoising loss of one noisy copy of every latent of the batch."""
        config = self.model.config
        here = world()
        noise = NoiseStream.of_batch(fold(config.seed, "train", self.global_step), here.rank, here.size)
        with self._compiled():
            per_image, t = self.loss(batch, noise, dropped=config.data.drop_caption)
        loss = per_image.mean()
        self._seen = per_image.detach(), t
        self.log("train/loss", loss, prog_bar=True)
        self._log_levels("train", per_image.detach(), t)
        return loss

    def worst_level(self) -> str:
        """Of the last step: the level, nats, of the first loss that is not finite, else of the largest, for people."""
        if self._seen is None:
            return "unknown"
        losses, t = self._seen
        worst = losses.nan_to_num(nan=float("inf")).argmax()
        return f"{self.model.schedule(t)[worst].item():.2f} nats of log-SNR (t = {t[worst].item():.3f})"

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The same loss with the averaged weights, fixed noise and every caption kept."""
        noise = NoiseStream([fold(self.model.config.seed, "val", batch_index)])
        with self.ema.applied():
            per_image, t = self.loss(batch, noise, dropped=0.0)
        self.log("val/loss", per_image.mean(), batch_size=len(per_image), prog_bar=True)
        self._log_levels("val", per_image, t)

    def configure_optimizers(self) -> Any:
        """AdamW at the configured rate."""
        return scheduled(adamw(self.learned, self.model.config.optim), self.model.config.optim)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """After the optimiser, the average."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update()

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Shorten gradients that are longer than the configured norm."""
        clip(self.trainer, optimizer, self.model.config.optim)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averaged weights, and of the others only those that are trained."""
        checkpoint["ema"] = self.ema.state_dict()
        frozen = {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        checkpoint["state_dict"] = {n: w for n, w in checkpoint["state_dict"].items() if n not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the averaged weights, with the optimiser as it is configured now."""
        missing = {name for name, p in self.named_parameters() if p.requires_grad} - checkpoint["state_dict"].keys()
        if missing:
            raise ValueError(f"checkpoint: {min(missing)} is missing; it is of another run, give another --out")
        self.ema.load_state_dict(checkpoint["ema"])
        use_settings(checkpoint, self.model.config.optim)

    def loss(self, batch: Batch, noise: NoiseStream, *, dropped: float) -> tuple[Tensor, Tensor]:
        """The recipe's loss of one noisy copy of every latent (b,) and the times t (b,) of the copies.

        Args:
            batch: from a `LatentCache`.
            noise: one stream; decides posterior noise, times, noise and which captions are dropped.
            dropped: share of captions replaced by the empty one.
        """
        config, schedule = self.model.config, self.model.schedule
        b = len(batch["mean"])
        z = noise.normal((1, *batch["mean"].shape), like=batch["mean"][None])[0]
        x0 = batch["mean"] if config.data.latents == "mean" else sample(Gaussian(batch["mean"], batch["var"]), z)
        eps = noise.normal((1, *x0.shape), like=x0[None])[0]
        t = noise.jointly(b, lambda n, whole: config.times.draw(n, whole, schedule)).to(x0.device)
        empty = noise.uniform((1, b))[0].to(x0.device) < dropped
        if self.kept is not None and dropped:
            empty[: b - self.kept.rows] = False  # the empty caption, too, is to mean what it meant
        low = self.low(batch, noise)
        if low is not None:
            x0 = low.correction(x0)
        cond = self._cond(batch, empty, noise, low)
        denoise = bind(self.denoise, cond)
        if config.prediction.learned_variance:
            below = t.clamp(max=1 - 1e-6)  # the last step ends at 1
            return hybrid_loss(denoise, x0, eps, below, schedule, config.loss, steps=schedule.steps), t
        goal = self._goal(x0, eps, schedule(t), cond)
        return denoising_loss(denoise, x0, eps, schedule(t), config.loss, schedule.slope(t), goal), t

    @torch.no_grad()
    def _goal(self, x0: Tensor, eps: Tensor, logsnr: Tensor, cond: Cond) -> Tensor:
        """The latents, but in the rows that are kept what the model said of them before."""
        if self.kept is None or self.kept.before is None or not self.training:
            return x0
        new = len(x0) - self.kept.rows
        x_t = q_sample(x0[new:], eps[new:], logsnr[new:])
        said = self.kept.before(x_t, logsnr[new:], cond.map(lambda rows: rows[new:])).x0
        return torch.cat([x0[:new], said])

    def low(self, batch: Batch, noise: NoiseStream) -> Low | None:
        """For an upscaler, one of the small versions of every picture, as noisy as its spec says; else None."""
        spec = self.model.config.low
        if spec is None:
            return None
        which, level = (noise.uniform((1, len(batch["low"])), like=batch["low"])[0] for _ in range(2))
        latent = version(batch["low"], which)
        return noised(latent, spec.noise * level, noise.normal((1, *latent.shape), like=latent)[0], spec)

    def conditioned(
        self, batch: Batch, empty: Tensor, noise: NoiseStream | None = None, low: Low | None = None
    ) -> Denoiser:
        """The network with the captions of a batch, but the empty caption in the rows of `empty` (b,) bool.

        With `noise`, one stream, a guess of the latent is made as noisy as its spec says. `low` is what an upscaler
        reads.
        """
        return bind(self.denoise, self._cond(batch, empty, noise, low))

    def _cond(self, batch: Batch, empty: Tensor, noise: NoiseStream | None, low: Low | None) -> Cond:
        null = self._null.map(lambda row: row.to(empty.device).expand(len(empty), *row.shape[1:]))
        cond = where(empty, null, conditions(batch))
        if self.model.text.trainable:
            cond = encoded(self.model.text, cond)
        if self.guess is not None:
            phrases = cond.phrases
            cond = self.guess.into(cond)
            if noise is not None and self.unseen is not None and self.training:
                assert phrases is not None and cond.channels is not None
                other = noise.uniform((1, len(cond)))[0].to(empty.device) < self.guess.spec.unseen
                guesses = self.unseen(phrases, batch[PICTURE])
                cond = replace(cond, channels=torch.where(other[:, None, None, None], guesses, cond.channels))
            if noise is not None:
                level = self.guess.spec.noise * noise.uniform((1, len(cond)))[0].to(empty.device)
                z = noise.normal((1, len(cond), *self.guess.spec.shape), like=cond.tokens[None])[0]
                cond = noisy(cond, level, z)
        return cond if low is None else low.into(cond)

    def _log_levels(self, stage: str, per_image: Tensor, t: Tensor) -> None:
        for part in range(LEVELS):
            inside = (t >= part / LEVELS) & (t < (part + 1) / LEVELS)
            mean = (per_image * inside).sum() / inside.sum().clamp(min=1)
            self.log(f"{stage}/loss_t{part}", mean, batch_size=len(t))


def conditions(batch: Batch) -> Cond:
    """What the cache holds of the captions: the states of a frozen encoder, or the token ids for a trainable one."""
    states = {name: state for name, state in batch.items() if name not in OF_PICTURE}
    return Cond(**{name: s.float() if s.is_floating_point() else s for name, s in states.items()})
