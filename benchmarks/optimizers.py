"""Other optimisers for the trials of `recipes.py`, behind the interface that AdamW has there. All are torch's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ldm.core.optim import OptimSpec, adamw


class MuonBesideAdamW:
    """Muon for the kernels and matrices between the first and the last layer, AdamW for the rest.

    torch's Muon takes matrices alone, so a kernel goes to it as the matrix (out, height * width * in) that lies in the
    same memory. Its steps have the root mean square of AdamW's, so that one learning rate fits both.

    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the size of a step, Liu et al. 2025
    (arXiv:2502.16982) section 2.2.
    """

    def __init__(self, module: nn.Module, spec: OptimSpec):
        trained = [p for p in module.parameters() if p.requires_grad]
        self.hidden = [p for p in trained if p.ndim >= 2][1:-1]
        self.flat = [nn.Parameter(_matrix(p.detach())) for p in self.hidden]
        taken = {id(p) for p in self.hidden}
        rest = [p for p in trained if id(p) not in taken]
        self.muon = torch.optim.Muon(
            self.flat, lr=spec.lr, weight_decay=spec.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = torch.optim.AdamW(rest, lr=spec.lr, betas=spec.betas, weight_decay=0.0, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad()
        for p in self.hidden:
            p.grad = None

    def step(self) -> None:
        """One step of both."""
        for p, flat in zip(self.hidden, self.flat, strict=True):
            flat.grad = None if p.grad is None else _matrix(p.grad)
        self.muon.step()
        self.adamw.step()


def _matrix(kernel: Tensor) -> Tensor:
    """A kernel (out, ...) as a matrix (out, n) in the same memory, in the order in which it lies there."""
    if kernel.ndim == 4 and kernel.is_contiguous(memory_format=torch.channels_last):
        kernel = kernel.permute(0, 2, 3, 1)
    return kernel.view(kernel.shape[0], -1)


def _groups(module: nn.Module, spec: OptimSpec) -> list[dict[str, Any]]:
    """As of `adamw`: decay for matrices and kernels alone."""
    keys = ("params", "lr", "weight_decay")
    return [{key: group[key] for key in keys} for group in adamw(module, spec).param_groups]


def nadam(module: nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    """Adam with Nesterov's momentum (Dozat 2016)."""
    return torch.optim.NAdam(_groups(module, spec), betas=spec.betas, decoupled_weight_decay=True)


def adafactor(module: nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    """Shazeer and Stern 2018 (arXiv:1804.04235): the second moment of a matrix by its rows and columns."""
    return torch.optim.Adafactor(_groups(module, spec))


def sgd(module: nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    """Stochastic gradients with Nesterov's momentum of 0.9."""
    return torch.optim.SGD(_groups(module, spec), momentum=0.9, nesterov=True)


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimSpec], Any]] = {
    "adamw": adamw,
    "nadam": nadam,
    "adafactor": adafactor,
    "sgd": sgd,
    "muon": MuonBesideAdamW,
}
