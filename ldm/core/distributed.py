"""Which of the processes of a run this one is: alone, or one of many that torchrun or SLURM started.

A configuration says what all processes do together: `data.batch` is the batch of a step whatever their number. Process
`rank` of `size` takes rows rank, rank + size, ... of it, so that the step is the same on one process and on many.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed

Rows = TypeVar("Rows", Tensor, list[int])


class LostProcessError(OSError):
    """Another process of the run is gone, or did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """How the processes that torchrun or SLURM started work together.

    Attributes:
        strategy: "ddp": every process holds the whole model; "fsdp": each holds a part of every weight, see
            `ldm.core.sharded`, for stage 2 and for fine-tuning all weights.
        timeout: seconds after which a process that does not answer counts as lost, and the run ends.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError(f"timeout: {self.timeout} is not positive; give seconds, such as 1800")


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: its number, 0 to size - 1.
        size: processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what only one should."""
        return self.rank == 0

    def rows(self, whole: Rows) -> Rows:
        """This process's rows of a tensor, or list, of the whole batch; the same for a process that is alone."""
        return whole if self.size == 1 else whole[self.rank :: self.size]

    def share(self, batch: int, name: str = "data.batch") -> int:
        """This process's number of rows of a batch.

        Raises:
            ValueError: the batch cannot be shared evenly.
        """
        if batch % self.size:
            raise ValueError(f"{name}: {batch} cannot be shared evenly by {self.size} processes; give a multiple of it")
        return batch // self.size

    def told(self, value: Any) -> Any:
        """The first process's `value`.

        Raises:
            LostProcessError: one of the processes is gone.
        """
        if self.size == 1:
            return value
        holder = [value]
        with answering():
            distributed.broadcast_object_list(holder, src=0)
        return holder[0]

    def wait(self) -> None:
        """Until all processes are here.

        Raises:
            LostProcessError: one of them is gone.
        """
        if self.size > 1:
            with answering():
                distributed.barrier()


def world() -> World:
    """The processes that `join` found; one alone before it, or without others."""
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    return World()


def join(spec: TrainerSpec) -> World:
    """Meet the other processes, if torchrun or SLURM started any; called once, before anything is shared.

    Args:
        spec: its `timeout` holds from here on.

    Raises:
        LostProcessError: the others did not come in that time.
    """
    if distributed.is_available() and not distributed.is_initialized() and _started_with_others():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(local_rank())
        with answering():
            distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=spec.timeout))
    return world()


def local_rank() -> int:
    """The number of this process on its machine, and so of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def answering() -> Iterator[None]:
    """Turn what the communication library says of a lost process into one line.

    Raises:
        LostProcessError: another process is gone, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not _about_others(error):
            raise
        reason = (
            str(error).strip().splitlines()[0].rpartition(".cc:")[2].partition("] ")[2].partition(". ")[0] or "no word"
        )
        raise LostProcessError(
            f"process {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}: another process of the run "
            f"was lost ({reason}); the last checkpoint is kept: run the same command to resume from it"
        ) from error


def _about_others(error: RuntimeError) -> bool:
    if isinstance(error, distributed.DistError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("gloo", "nccl", "connection closed by peer", "connection reset by peer"))


def _started_with_others() -> bool:
    """Whether this process is one of several; SLURM's names are given torch's."""
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        each = int(os.environ["SLURM_NTASKS"]) // int(os.environ.get("SLURM_NNODES", "1"))
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(each))  # Lightning refuses --ntasks without it
        slurm = SLURMEnvironment()
        if not slurm.detect():  # an interactive shell within a job
            return False
        os.environ |= {
            "RANK": str(slurm.global_rank()),
            "WORLD_SIZE": str(slurm.world_size()),
            "LOCAL_RANK": str(slurm.local_rank()),
            "LOCAL_WORLD_SIZE": str(each),
            "MASTER_ADDR": slurm.main_address,
            "MASTER_PORT": str(slurm.main_port),
        }
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
