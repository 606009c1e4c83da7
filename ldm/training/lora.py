"""Train a LoRA: low-rank adapters, by `peft`, beside the frozen weights of the U-Net and, if asked, of a CLIP tower."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ldm.build import Model
from ldm.nets.clip import ClipEncoder
from ldm.nets.lora import LowRank

ADAPTER = "default"  # peft's name for the one adapter
TARGETS = {
    "attention": r"to_q|to_k|to_v|to_out",
    "transformer": r"to_q|to_k|to_v|to_out|linear_in|linear_out|proj_in|proj_out",
    "all": r"to_q|to_k|to_v|to_out|linear_in|linear_out|proj_in|proj_out|conv1|conv2|conv|emb|skip|linear1|linear2",
}
# Of a CLIP tower the feed-forward layers and the last one of an attention. Queries, keys and values come from one
# stacked matrix, under the name that stored models have for it; it is no layer of its own, which peft could adapt.
TOWER = r"out_proj|c_fc|c_proj"


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """Low-rank changes of frozen weights.

    Attributes:
        rank: r; the file grows with it.
        alpha: the changes are scaled by alpha / r; null: r, no scale.
        targets: which layers of the U-Net: those of attention, all of the transformers, or the convolutions as well.
        text: whether the text encoder is adapted too, which must be a CLIP tower.
    """

    kind: Literal["lora"] = "lora"
    rank: int = 8
    alpha: float | None = None
    targets: Literal["attention", "transformer", "all"] = "transformer"
    text: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: {self.rank} is below 1; 4 to 32 is usual")

    @property
    def scaled_by(self) -> float:
        """Numerator of the scale."""
        return float(self.rank if self.alpha is None else self.alpha)


def inject(model: Model, spec: LoraSpec) -> None:
    """Freeze the weights of `model` and put trainable adapters, which start as no change, beside them, in place.

    Raises:
        ValueError: peft is not installed, or the text encoder is to be adapted and is no CLIP tower.
    """
    _adapt(model.denoise.net, spec, TARGETS[spec.targets])
    if not spec.text:
        return
    if not isinstance(model.text, ClipEncoder):
        raise ValueError("learn.text: only a CLIP tower can be adapted; this model's text encoder stays frozen")
    model.text.trainable = True
    _adapt(model.text.clip.transformer, spec, TOWER)


def _adapt(module: nn.Module, spec: LoraSpec, names: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("learn: LoRA is trained by the package peft; pip install peft") from error
    layers = (nn.Linear, nn.Conv2d)
    found = [
        n for n, m in module.named_modules() if isinstance(m, layers) and re.fullmatch(names, n.rpartition(".")[2])
    ]
    config = LoraConfig(r=spec.rank, lora_alpha=spec.scaled_by, target_modules=found)
    inject_adapter_in_model(config, module)


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Within the block the adapted layers of `module` are as they were before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def trained(state: Mapping[str, Tensor], alpha: float) -> dict[str, LowRank]:
    """The changes in the state dict of adapted networks, by the name of the weight that they change.

    Args:
        state: of `Model.learned()`, with peft's names.
        alpha: of the spec.
    """
    mark = f".lora_A.{ADAPTER}.weight"
    changes = {}
    for name in (key.removesuffix(mark) for key in state if key.endswith(mark)):
        changes[f"{name}.weight"] = LowRank(state[name + mark], state[f"{name}.lora_B.{ADAPTER}.weight"], alpha)
    return changes
