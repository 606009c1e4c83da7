"""The end of a training at the first number that is not finite, with its name."""

import math
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from ldm.core.sharded import whole


class DivergenceError(ValueError):
    """Training produced a number that is not finite."""


class StopAtBadNumbers(Callback):
    """Ends training at the first gradient or loss that is not finite, before it reaches weights or a checkpoint."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Look at the gradients; a scaler for float16 has infinite ones now and then and skips those steps itself."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not gradients:
            return
        norm = whole(nn.utils.get_total_norm(gradients))
        if not torch.isfinite(norm):
            raise _diverged(trainer, pl_module)
        if pl_module.automatic_optimization:
            pl_module.log("train/grad_norm", norm)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the loss that was just logged."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not math.isfinite(float(loss)):
            raise _diverged(trainer, pl_module)


def first_bad_tensor(module: nn.Module) -> str:
    """Name of the first parameter or gradient of `module` that is not finite, or "none of the weights"."""
    for name, parameter in module.named_parameters():
        if not torch.isfinite(whole(parameter)).all():
            return name
        if parameter.grad is not None and not torch.isfinite(whole(parameter.grad)).all():
            return f"gradient of {name}"
    return "none of the weights"


def _diverged(trainer: Any, module: Any) -> DivergenceError:
    where = f" at noise level {module.worst_level()}" if hasattr(module, "worst_level") else ""
    return DivergenceError(
        f"step {trainer.global_step}: training produced NaN or infinity{where}; first tensor that is not finite: "
        f"{first_bad_tensor(module)}; the last checkpoint is from before: lower optim.lr, or look at the data, and run "
        "the same command to resume from it; if it is ruined too, remove last.ckpt and copy an older step-*.ckpt there"
    )
