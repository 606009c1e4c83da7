"""The optimiser and its learning rate as one typed value, shared by both stages."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ldm.core.limits import above, at_least, share


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """AdamW with warm-up, a plateau, and a linear decay to zero at the end.

    A plateau (rather than a cosine) lets a run be lengthened, and resumed, without having been planned for it.

    Attributes:
        lr: learning rate of the plateau.
        betas: AdamW's moments.
        weight_decay: on matrices and kernels only; norms and biases are not decayed.
        warmup: steps of linear warm-up.
        steps: steps in all.
        decay: share of the steps, at the end, over which the rate falls linearly to zero.
        clip: largest norm of the gradient; infinity is no limit.
        ema: decay of the weights' moving average.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 100
    steps: int = 10_000
    decay: float = 0.2
    clip: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        at_least(0, warmup=self.warmup, weight_decay=self.weight_decay)
        above(0, lr=self.lr)
        if not self.clip > 0:
            raise ValueError(f"clip: {self.clip}; give a number above 0, or .inf for no limit")
        share(decay=self.decay)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: {self.ema} is outside [0, 1); 0.999 is usual, 0 is no average")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {self.betas}; give two numbers in [0, 1)")

    def factor(self, step: int) -> float:
        """Multiplier of `lr` at `step` = 0, 1, ...: up, flat, down to zero at `steps`."""
        up = (step + 1) / max(self.warmup, 1)
        down = (self.steps - step) / max(self.decay * self.steps, 1.0)
        return max(0.0, min(1.0, up, down))


def adamw(module: nn.Module, spec: OptimSpec) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `module`, decaying only those with two axes or more."""
    trained = [p for p in module.parameters() if p.requires_grad]
    parts = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, decays(spec), strict=True)]
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=True)


def decays(spec: OptimSpec) -> tuple[float, float]:
    """Weight decay of the two groups of `adamw`: matrices and kernels, and what has one axis."""
    return spec.weight_decay, 0.0


def clip(trainer: Any, optimizer: torch.optim.Optimizer, spec: OptimSpec) -> None:
    """Shorten the gradients of a Lightning module to the configured norm; Lightning itself refuses a fused optimiser.

    Args:
        trainer: Lightning's, which may have scaled the gradients.
        optimizer: whose parameters have them.
        spec: the norm is its `clip`.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)  # of float16: it has scaled the gradients
    limit = spec.clip * (1.0 if scaler is None else scaler.get_scale())
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], limit)


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Let moments lie in memory as their weights do, which a fused optimiser takes for granted.

    Those of a checkpoint lie as the weights did there: channels last, or, where they were shared out, not.
    """
    for weight, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == weight.shape and moment.stride() != weight.stride():
                moments[name] = torch.empty_like(weight).copy_(moment)


def scheduled(optimizer: torch.optim.Optimizer, spec: OptimSpec) -> dict:
    """What Lightning's `configure_optimizers` returns: the optimiser and its rate, advanced every step."""
    # a plain function, which checkpoints leave out; of a bound method they keep the attributes
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: spec.factor(step))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
