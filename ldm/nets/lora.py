"""LoRA: a change of weights of low rank, W + s (alpha / r) B A, as a value and as a small file.

Source: Hu et al. 2021 (arXiv:2106.09685) section 4.1.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ldm.core.bundle import BundleError, write_atomically

FORMAT = "ldm-lora-1"
DOWN, UP, ALPHA = ".lora_A", ".lora_B", ".alpha"  # what follows a weight's name in a file


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change of one weight.

    Attributes:
        down: A (r, in), of a convolution (r, in, k, k).
        up: B (out, r), of a convolution (out, r, 1, 1).
        alpha: numerator of the scale; the file that holds the change may be scaled further when it is used.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Outputs and inputs of the change; an input of a k x k convolution counts k^2 times."""
        return self.up.shape[0], self.down[0].numel()

    def delta(self) -> Tensor:
        """(alpha / r) B A, float32, as a matrix (out, in)."""
        return self.alpha / self.rank * (self.up.float().flatten(1) @ self.down.float().flatten(1))


@dataclass(frozen=True, eq=False)
class Lora:
    """Changes by the name of the weight that they change, as `Model.learned()` names it.

    Attributes:
        changes: e.g. "net.down.0.layers.0.attention.layers.0.cross_attention.to_q.weight".
        model: content hash of the model that it was trained on; "": not said.
        words: trigger words, that a prompt names to use what was learned.
    """

    changes: Mapping[str, LowRank]
    model: str = ""
    words: tuple[str, ...] = field(default=())


def save_lora(path: str | Path, lora: Lora) -> None:
    """Write a LoRA file, atomically: each weight's A, B and alpha, and in its metadata the model and trigger words."""
    tensors: dict[str, Tensor] = {}
    for name, change in lora.changes.items():
        tensors[name + DOWN], tensors[name + UP] = change.down.contiguous(), change.up.contiguous()
        tensors[name + ALPHA] = torch.tensor(float(change.alpha))
    ranks = sorted({change.rank for change in lora.changes.values()})
    header = {"format": FORMAT, "model": lora.model, "words": json.dumps(lora.words), "rank": json.dumps(ranks)}
    write_atomically(Path(path), save(tensors, metadata=header))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        BundleError: no such file, or it is not safetensors.
    """
    if not Path(path).is_file():
        raise BundleError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise BundleError(f"{path}: truncated or not a safetensors file ({error})") from error


def parse_lora(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
    """The LoRA of a file in this project's own layout.

    Raises:
        BundleError: a file of another kind, or one that lacks a tensor.
    """
    if header.get("format") != FORMAT:
        raise BundleError(f"{path}: a safetensors file, but no LoRA that is known here (this project's, peft or kohya)")
    changes = {}
    for name in (key.removesuffix(DOWN) for key in tensors if key.endswith(DOWN)):
        if name + UP not in tensors or name + ALPHA not in tensors:
            raise BundleError(f"{path}: {name} has A but lacks {UP[1:]} or {ALPHA[1:]}; the file is damaged")
        changes[name] = LowRank(tensors[name + DOWN], tensors[name + UP], float(tensors[name + ALPHA]))
    return Lora(changes, header.get("model", ""), tuple(json.loads(header.get("words", "[]"))))


@torch.no_grad()
def merge(module: nn.Module, lora: Lora, scale: float, where: str) -> None:
    """Add `scale` times the changes to the weights of `module`, in place: this is what it is for.

    Raises:
        ValueError: a weight is not there or of another shape; `where` names the file. Nothing was changed then.
    """
    weights = dict(module.named_parameters())
    for name, change in lora.changes.items():
        if name not in weights:
            raise BundleError(f"{where}: it changes {name}, which this model does not have; it is for another model")
        found = weights[name].shape
        if (found[0], found[1:].numel()) != change.size:
            raise BundleError(
                f"{where}: {name} is {tuple(found)} here, but its change is {change.size}; it is for another model"
            )
    for name, change in lora.changes.items():
        weight = weights[name]
        weight.add_((scale * change.delta()).reshape(weight.shape).to(weight))


@contextmanager
def merged(module: nn.Module, lora: Lora, scale: float, where: str) -> Iterator[None]:
    """Within the block the weights of `module` have the changes; after it they are the former bits."""
    before = {name: p.detach().clone() for name, p in module.named_parameters() if name in lora.changes}
    merge(module, lora, scale, where)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name in before:
                    p.copy_(before[name])
