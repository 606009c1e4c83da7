"""Stage 1 as a Lightning module: wires the model, the objective and the measurements, and owns no maths."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from autoencoder.config import AutoencoderConfig
from autoencoder.crop import train_view
from autoencoder.discriminator import PatchDiscriminator
from autoencoder.losses import Reconstruction, adaptive_weight, adversarial_terms, vae_terms
from autoencoder.metrics import psnr, ssim
from autoencoder.model import Autoencoder
from autoencoder.perceptual import load_lpips, perceptual_distance
from autoencoder.stats import MomentsMeter
from ldm.core.checkpoints import use_settings
from ldm.core.distributed import world
from ldm.core.ema import Ema
from ldm.core.images import grid
from ldm.core.optim import adamw, scheduled
from ldm.core.rng import NoiseStream, fold
from ldm.data.folder import Sample


class AutoencoderTraining(lightning.LightningModule):
    """Trains and validates an `Autoencoder`.

    Optimisation is manual because the discriminator, where there is one, has an optimiser of its own.
    """

    def __init__(self, config: AutoencoderConfig, weights: Mapping[str, Tensor] | None = None):
        """Build the model of `config`, new or with `weights`."""
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.model = Autoencoder(config.model).to(memory_format=torch.channels_last)
        if weights is not None:
            self.model.load_state_dict(weights)
        if config.learn == "decoder":
            self.model.encoder.requires_grad_(False)
        self.reconstruction = Reconstruction(config.loss.reconstruction)
        self.discriminator = PatchDiscriminator() if config.loss.adversarial > 0 else None
        self.ema = Ema(self.model, config.optim.ema)
        self._lpips: list[nn.Module] = []  # in a list, so that its frozen weights stay out of the checkpoints

    @property
    def lpips(self) -> nn.Module:
        """The frozen perceptual network, loaded when first used."""
        if not self._lpips:
            self._lpips.append(load_lpips("alex").to(self.device))
        return self._lpips[0]

    def on_train_start(self) -> None:
        """Load what the first validation needs, so that a missing file is reported now."""
        self.lpips  # noqa: B018

    def training_step(self, batch: Sample, batch_index: int) -> None:
        """One step of the autoencoder and, after its start, of the discriminator."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        config, step = self.config, self.global_step
        x = train_view(batch.image, config.data, step / config.optim.steps, fold(config.seed, "step", step), world())
        x = x.to(memory_format=torch.channels_last)
        adversarial = self.global_step >= self.config.loss.adversarial_start
        loss, x_hat = self._objective(x, adversarial)
        self._step(optimizers[0], loss, self.model)
        self.ema.update()
        if self.discriminator is not None and adversarial:
            scores = self.discriminator(torch.cat([x, x_hat.detach()])).float()
            real, fake = scores.chunk(2)
            # its bare optimiser, so that Lightning's step count stays that of the autoencoder
            self._step(optimizers[1].optimizer, adversarial_terms(real, fake), self.discriminator)
        for schedule in self._schedules():
            schedule.step()

    def _objective(self, x: Tensor, adversarial: bool) -> tuple[Tensor, Tensor]:
        loss_spec = self.config.loss
        here = world()
        rows = range(here.rank, here.rank + len(x) * here.size, here.size)
        seeds = [fold(self.config.seed, "posterior", self.global_step, row) for row in rows]
        noise = NoiseStream(seeds).normal((len(x), *self.model.latent_shape(*x.shape[-2:])), like=x)
        x_hat, posterior = self.model(x, noise)
        x_hat = x_hat.float()
        terms = vae_terms(x, x_hat, posterior, self.reconstruction)
        per_value = x[0].numel()
        loss = (terms.recon.mean() + loss_spec.kl * terms.kl.mean()) / per_value
        self.log_dict(
            {"train/recon": terms.recon.mean() / per_value, "train/kl_per_dim": terms.kl.mean() / noise[0].numel()}
        )
        if loss_spec.lpips > 0:
            distance = perceptual_distance(self.lpips, x, x_hat).mean()
            self.log("train/lpips", distance)
            loss = loss + loss_spec.lpips * distance
        if self.discriminator is not None and adversarial:
            fooling = -self.discriminator(x_hat).float().mean()
            weight = adaptive_weight(loss, fooling, self.model.decoder.conv_out.weight)
            loss = loss + loss_spec.adversarial * weight * fooling
        self.log("train/loss", loss, prog_bar=True)
        return loss, x_hat

    def _step(self, optimizer: Any, loss: Tensor, module: nn.Module) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.optim.clip)
        self.log("train/grad_norm", norm)
        optimizer.step()

    def on_validation_epoch_start(self) -> None:
        """Begin measuring the latents."""
        self._meter = MomentsMeter(self.config.model.latent_channels)

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """Reconstruct through the posterior mean with the averaged weights, and measure."""
        x = batch.image
        with self.ema.applied():
            posterior = self.model.encode(x)
            x_hat = self.model.decode(posterior.mean).float().clamp(-1, 1)
        self._meter.update(posterior)
        kl = vae_terms(x, x_hat, posterior, self.reconstruction).kl
        found = {
            "val/psnr": psnr(x, x_hat).mean(),
            "val/ssim": ssim(x, x_hat).mean(),
            "val/lpips": perceptual_distance(self.lpips, x, x_hat).mean(),
            "val/kl_per_dim": kl.mean() / posterior.mean[0].numel(),
        }
        self.log_dict(found, batch_size=len(x), prog_bar=True)
        logger: Any = self.logger
        if batch_index == 0 and logger is not None:
            pairs = torch.stack([x[:8], x_hat[:8]], 1).flatten(0, 1)
            logger.experiment.add_image("reconstructions", grid(pairs, 4) / 2 + 0.5, self.global_step)

    def on_validation_epoch_end(self) -> None:
        """Log each latent channel's mean and standard deviation."""
        moments = self._meter.moments()
        for c, (mean, std) in enumerate(zip(moments.mean, moments.std, strict=True)):
            self.log_dict({f"latent_mean/{c}": mean, f"latent_std/{c}": std})

    def configure_optimizers(self) -> Any:
        """AdamW for the autoencoder and, where there is one, for the discriminator."""
        parts = nn.ModuleList([self.model, self.reconstruction])
        found = [scheduled(adamw(parts, self.config.optim), self.config.optim)]
        if self.discriminator is not None:
            found.append(scheduled(adamw(self.discriminator, self.config.optim), self.config.optim))
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averaged weights."""
        checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the averaged weights, with the optimiser as it is configured now."""
        self.ema.load_state_dict(checkpoint["ema"])
        use_settings(checkpoint, self.config.optim)

    def _schedules(self) -> list[Any]:
        found = self.lr_schedulers()
        return found if isinstance(found, list) else [found]
