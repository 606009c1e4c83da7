"""Decoding with Stable Diffusion's f8 autoencoder beside diffusers', with the same random weights.

    python benchmarks/decode.py                          # 512x512, bfloat16: time in turn, memory in fresh processes
    python benchmarks/decode.py --dtype float32 --side 768

Memory is the peak of the process above what it held before the decoder's first run. "in strips" is `--tile` of
`scripts/txt2img.py`, "tiled" is diffusers' `enable_tiling`.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity")]

from autoencoder.model import Autoencoder, AutoencoderSpec
from autoencoder.strips import decode_in_strips
from benchmarks.beside import in_turn, off_by, randomised
from ldm.core.memory import forget_most, most_resident, resident
from ldm.core.packed import pack, packing_pays
from ldm.core.processor import processor

F8 = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
OURS, STRIPS, THEIRS, TILED = "ours", "ours in strips", "diffusers", "diffusers tiled"
Decode = Callable[[torch.Tensor], torch.Tensor]


def decoders(dtype: torch.dtype, wanted: list[str]) -> dict[str, Decode]:
    """The programs in `wanted`, all with the same weights."""
    torch.manual_seed(0)
    ours = randomised(Autoencoder(AutoencoderSpec()).to(dtype).to(memory_format=torch.channels_last))
    found: dict[str, Decode] = {}
    if {THEIRS, TILED} & set(wanted):
        import diffusers
        from test_autoencoder_parity import copy_net  # type: ignore[import-not-found]

        theirs = diffusers.AutoencoderKL(**F8).to(dtype).eval().requires_grad_(False)
        copy_net(ours, theirs)
        found[THEIRS] = lambda z: theirs.decode(z).sample
        if TILED in wanted:
            theirs.enable_tiling()
            found[TILED] = found.pop(THEIRS)
    if {OURS, STRIPS} & set(wanted):
        if packing_pays(processor()):  # as it draws
            pack(ours)
        found[OURS] = ours.decode
        found[STRIPS] = lambda z: decode_in_strips(ours, z)
    return {name: found[name] for name in wanted}


def memory(name: str, options: argparse.Namespace) -> int:
    """Bytes that decoding needs above what stood before, in a process of its own."""
    command = [sys.executable, __file__, "--dtype", options.dtype, "--side", str(options.side), "--only", name]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measured(name: str, dtype: torch.dtype, z: torch.Tensor) -> int:
    """The same, in this process."""
    (decode,) = decoders(dtype, [name]).values()
    with torch.inference_mode():
        decode(z[:, :, :8, :8])  # libraries load what they need
        before = resident()
        forget_most()
        decode(z)
    return most_resident() - before


def main() -> None:
    """Print time, memory and difference of both decoders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--side", type=int, default=512, help="of the picture, a multiple of 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    z = torch.randn(1, 4, options.side // 8, options.side // 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    if options.only:
        print(measured(options.only, dtype, z))
        return
    names = [OURS, STRIPS, THEIRS]
    programs = decoders(dtype, names)
    with torch.inference_mode():
        pictures = {name: decode(z) for name, decode in programs.items()}
        taken = in_turn({name: partial(decode, z) for name, decode in programs.items()}, options.rounds)
    print(f"{options.dtype}, {options.side}x{options.side}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for name in names:
        print(
            f"{name}: median {taken.median(name):.2f} s, {taken.ratio(name, THEIRS):.2f} of diffusers; "
            f"off by {off_by(pictures[name], pictures[THEIRS]):.1e} standard deviations",
            flush=True,
        )
    bytes_of = {name: memory(name, options) for name in (*names, TILED)}
    for name, found in bytes_of.items():
        print(f"{name}: {found / 1e6:.0f} MB, {found / bytes_of[THEIRS]:.2f} of diffusers")


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
