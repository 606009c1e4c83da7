"""Weights that the processes of a run share out (FSDP): each holds a part of every weight, its gradient and moments.

A layer gathers its weights before it runs, and lets them go after it. A checkpoint has whole tensors, in the layout of
a run that shares nothing: it resumes with any number of processes, by either strategy.

Source: Rajbhandari et al. 2020 (arXiv:1910.02054), stage 3; Zhao et al. 2023 (arXiv:2304.11277).
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ldm.core.distributed import world

MESH = "data_parallel"  # the name that Lightning's strategy gives it


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which must all ask for it; itself where it is not shared out."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_like(tensor: Tensor, full: Tensor) -> Tensor:
    """A whole tensor shared out as `tensor` is, of its device and type; every process has the same `full`."""
    full = full.detach().to(device=tensor.device, dtype=tensor.dtype)
    if not isinstance(tensor, DTensor):
        return full
    return distribute_tensor(full.contiguous(), tensor.device_mesh, tensor.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors in the memory of the first process, one after the other; the others take part and keep none."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if world().first:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def share_out(root: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Share out the weights of `root` in place: those of each of `layers` by themselves, the others together.

    Args:
        root: called as a whole in each step.
        layers: modules in it whose weights are gathered only while they run.
        mesh: of one axis.
    """
    root.to(memory_format=torch.contiguous_format)  # parts of rows need it
    for module in (*layers, root):  # the root, too, lets its weights go, or their average could not be exchanged
        shared = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # Once, here: in memory that was first taken to draw a picture, in inference mode, nothing could be trained.
        shared.unshard()
        shared.reshard()


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for weights that `configure_model` has shared out, with checkpoints of whole tensors.

    Args:
        timeout: seconds after which a process that does not answer counts as lost.
    """

    def __init__(self, timeout: float):
        super().__init__(
            data_parallel_size=world().size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(seconds=timeout),
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning hands the optimisers' states back."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights, in the first process."""
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole moments, numbered as the optimiser numbers them, in the first process."""
        state = optimizer.state_dict()
        return state | {"state": {number: gathered(moments) for number, moments in state["state"].items()}}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process reads the checkpoint, and keeps its parts."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take over this process's parts of the weights."""
        assert self.lightning_module is not None
        present = self.lightning_module.state_dict()
        parts = {n: shared_like(present[n], w) if n in present else w for n, w in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over this process's parts of the moments."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            state = {}
            for weight, number in zip(weights, numbers, strict=True):
                moments = saved["state"].get(number, {})
                state[number] = {
                    n: shared_like(weight, m) if m.shape == weight.shape else m for n, m in moments.items()
                }
            optimizer.load_state_dict({**saved, "state": state})
