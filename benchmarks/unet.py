"""One step of Stable Diffusion 1.5's U-Net beside diffusers', with the same random weights, in turn.

python benchmarks/unet.py                             # bfloat16, batch 2, 64x64 latents
python benchmarks/unet.py --dtype float32 --rounds 5
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity")]

import diffusers
from test_unet_parity import copy_net  # type: ignore[import-not-found]

from benchmarks.beside import LARGE, flops, in_turn, large_convolution, off_by, randomised
from ldm.core.packed import pack, packing_pays
from ldm.core.processor import processor
from ldm.nets.cond import Cond
from ldm.nets.unet import UNet, UNetSpec

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
WORDS = 77


def both(dtype: torch.dtype) -> tuple[UNet, torch.nn.Module]:
    """Our network and theirs, of the shape of Stable Diffusion 1.5, with the same weights."""
    ours = randomised(UNet(UNetSpec()).to(dtype).to(memory_format=torch.channels_last))
    theirs = diffusers.UNet2DConditionModel(**SD15).to(dtype).eval().requires_grad_(False)
    copy_net(ours, theirs)
    return ours, theirs


def main() -> None:
    """Print the steps of both U-Nets, their ratio and the share of the best possible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="of the latents")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    dtype, device = getattr(torch, options.dtype), torch.device(options.device)
    ours, theirs = (net.to(device) for net in both(dtype))
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 4, options.side, options.side)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    words = torch.randn(options.batch, WORDS, 768, generator=generator).to(device, dtype)
    if packing_pays(processor()):  # as it draws
        pack(ours)
    t = torch.full((options.batch,), 500.0, device=device)
    with torch.inference_mode():
        difference = off_by(ours(x, t, Cond(words)), theirs(x, t, words).sample)
        programs = {"ours": lambda: ours(x, t, Cond(words)), "diffusers": lambda: theirs(x, t, words).sample}
        taken = in_turn(programs | {"machine": large_convolution(dtype, device)}, options.rounds)
    with torch.device("meta"):
        shadow = UNet(UNetSpec())
        args = (torch.empty(shape), torch.empty(options.batch), Cond(torch.empty(options.batch, WORDS, 768)))
        work = flops(lambda: shadow(*args))
    print(f"{options.dtype}, {shape}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print(f"largest difference {difference:.1e} standard deviations of the output")
    print(
        f"{work / 1e12:.2f} TFLOP; at the rate of one large convolution {work / LARGE * taken.median('machine'):.2f} s"
    )
    for name in ("ours", "diffusers"):
        share = work / LARGE * taken.ratio("machine", name)
        print(f"{name}: median {taken.median(name):.2f} s, {share:.0%} of that rate")
    print(f"ours / diffusers: {taken.ratio('ours', 'diffusers'):.2f}")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
