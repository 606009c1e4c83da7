"""What a training step holds in memory: values kept for the backward pass, measured and by formula, and the weights.

    python benchmarks/memory.py                                   # configs/ldm/sd1.yaml: no memory is used for it
    python benchmarks/memory.py --config configs/ldm/emoji.yaml

Measured: the forward pass runs on fake tensors, which have shapes and no numbers, through the fused attention kernel,
and a hook sees every tensor that autograd keeps; each piece of storage is counted once, parameters are not. By formula,
in values for each picture, with c channels and n = h w places (bytes: times 2 in bfloat16); what is left out, the steps
between levels and the words, is some percent:

    residual block   3 c_in n + 3 c_out n       what both norms, both activations and both convolutions read
    transformer      (3 + 28 depth) c n         around the layers: the norm and both projections; for each layer:
                                                attention to itself 6, to the words 4, gated feed-forward 18

With `net.checkpoint` only what enters each layer is kept, c_in n, and one layer at a time is computed again.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.config import RunConfig
from ldm.core.config_io import load
from ldm.nets.attention import SpatialTransformer
from ldm.nets.blocks import ResBlock
from ldm.nets.cond import Cond
from ldm.nets.unet import UNet, UNetSpec

ROOT = Path(__file__).resolve().parent.parent
WORDS = 77
PER_PARAMETER = {"weights": 4, "gradients": 4, "AdamW's two moments": 8, "moving average": 4}  # bytes


def inputs(spec: UNetSpec, b: int, side: int) -> tuple[Tensor, Tensor, Cond]:
    """Shapes of a batch, on the device in use."""
    channels = torch.empty(b, spec.cond_channels, side, side) if spec.cond_channels else None
    pooled = torch.empty(b, spec.pooled_dim) if spec.pooled_dim else None
    cond = Cond(torch.empty(b, WORDS, spec.context_dim), pooled=pooled, channels=channels)
    return torch.empty(b, spec.in_channels, side, side), torch.empty(b), cond


def kept(spec: UNetSpec, b: int, side: int) -> int:
    """Bytes in bfloat16 that a forward pass keeps for the backward pass, without the parameters."""
    with narrow(), FakeTensorMode():
        net = UNet(spec)
        x, level, cond = inputs(spec, b, side)
        mine = {p.untyped_storage()._cdata for p in net.parameters()}
        storages: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage()._cdata not in mine:
                storages[tensor.untyped_storage()._cdata] = tensor  # held, so that its address is not used again
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = net(x, level.float(), cond)
        del out
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


@contextmanager
def narrow() -> Iterator[None]:
    """Within the block, new tensors are bfloat16; fake ones cannot be converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def by_formula(spec: UNetSpec, b: int, side: int) -> int:
    """The same by the formula above: blocks as they are met in a forward pass."""
    values = 0

    def met(module: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal values
        places = out.shape[2] * out.shape[3]
        if isinstance(module, ResBlock):
            values += 3 * places * (args[0].shape[1] + out.shape[1])
        else:
            depth = spec.per_level(spec.depth)[0]
            values += (3 + 28 * depth) * places * out.shape[1]

    with torch.device("meta"):
        net = UNet(replace(spec, checkpoint=False)).to(torch.bfloat16)
        for module in blocks(net):
            module.register_forward_hook(met)
        x, level, cond = inputs(spec, 1, side)
        with torch.no_grad():
            net(x.bfloat16(), level, cond.map(lambda row: row.bfloat16()))
    return 2 * b * values


def blocks(net: UNet) -> Iterator[torch.nn.Module]:
    """What the formula counts."""
    yield from (module for module in net.modules() if isinstance(module, ResBlock | SpatialTransformer))


def main() -> None:
    """Print the parts of the memory of a training step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=ROOT / "configs" / "ldm" / "sd1.yaml")
    parser.add_argument("--factor", type=int, default=8, help="pixels for each latent place (default: %(default)s)")
    options = parser.parse_args()
    config = load(options.config, RunConfig)
    spec, side = config.net, config.data.size // options.factor
    with torch.device("meta"):
        parameters = sum(p.numel() for p in UNet(spec).parameters())
    parts = ", ".join(f"{name} {size * parameters / 1e9:.2f} GB" for name, size in PER_PARAMETER.items())
    total = sum(PER_PARAMETER.values()) * parameters / 1e9
    print(f"{parameters:,} parameters: {parts}; in all {total:.2f} GB")
    for size, b in ((side, 1), (side, 4), (side // 2, 1)):
        found, formula = kept(spec, b, size), by_formula(spec, b, size)
        again = kept(replace(spec, checkpoint=True), b, size)
        print(
            f"latents {size}x{size}, batch {b}: kept {found / 1e9:.3f} GB, by formula {formula / 1e9:.3f} "
            f"({100 * (formula / found - 1):+.1f} %), with net.checkpoint {again / 1e9:.3f} GB"
        )


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
