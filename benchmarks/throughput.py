"""The arithmetic of docs/scaling.md beside small cases: operations and time of a step, bytes between processes.

    python benchmarks/throughput.py              # both tables
    python benchmarks/throughput.py --rounds 9

Time. A forward pass of a picture takes F operations of matrix products, counted; a training step is said to take 3 F,
with `net.checkpoint` 4 F, so pictures a second are u R / (3 F) on a machine of R operations a second of which the share
u is reached. Two U-Nets in the shape of Stable Diffusion 1, narrower, in float32 on small latents: forward pass, step
and step with checkpoints in turn. R is what one large convolution reaches.

Bytes. Averaging gradients of P parameters over N processes, each is said to send 2 (N - 1) / N times 4 P bytes a step.
N processes on this machine train a small U-Net by DDP over gloo, on the loopback device alone, whose counter is read.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.beside import LARGE, flops, in_turn, large_convolution
from ldm.nets.cond import Cond
from ldm.nets.unet import UNet, UNetSpec

WORDS, STEPS, PORT = 77, 5, 29561
SHAPE = UNetSpec(in_channels=4, out_channels=4, mult=(1, 2, 4, 4), heads=8, context_dim=768)
LOOPBACK = Path("/proc/net/dev")


def inputs(b: int, side: int) -> tuple[Tensor, Tensor, Cond]:
    """A batch of latents, levels and words."""
    return torch.randn(b, 4, side, side), torch.zeros(b), Cond(torch.randn(b, WORDS, SHAPE.context_dim))


def forward(net: nn.Module, batch: tuple[Tensor, Tensor, Cond]) -> Callable[[], object]:
    """One forward pass as a program."""

    def run() -> object:
        with torch.no_grad():
            return net(*batch)

    return run


def step(net: nn.Module, batch: tuple[Tensor, Tensor, Cond]) -> Callable[[], object]:
    """Forward and backward pass as a program."""
    return lambda: net(*batch).square().mean().backward()


def counted(spec: UNetSpec, b: int, side: int) -> int:
    """Operations of a forward pass."""
    with torch.device("meta"):
        net, batch = UNet(spec), inputs(b, side)
        return flops(forward(net, batch))


def times(rounds: int) -> None:
    """Print the first table."""
    b, side = 2, 32
    specs = {f"{channels} channels": replace(SHAPE, channels=channels) for channels in (64, 128)}
    programs: dict[str, Callable[[], object]] = {"machine": large_convolution(torch.float32, torch.device("cpu"))}
    batch = inputs(b, side)
    for name, spec in specs.items():
        torch.manual_seed(0)
        plain, again = UNet(spec), UNet(replace(spec, checkpoint=True))
        programs |= {f"{name}, forward": forward(plain, batch), f"{name}, step": step(plain, batch)}
        programs[f"{name}, step with net.checkpoint"] = step(again, batch)
    found = in_turn(programs, rounds)
    rate = LARGE / found.median("machine")
    print(f"{torch.get_num_threads()} threads, float32, batch {b} of {side}x{side}, R = {rate / 1e12:.3f} TFLOP/s\n")
    print("| | operations | share u | time to a forward pass | said |\n|---|---:|---:|---:|---:|")
    for name, spec in specs.items():
        work = counted(spec, b, side)
        for what, said in (("forward", 1), ("step", 3), ("step with net.checkpoint", 4)):
            key = f"{name}, {what}"
            share = said * work / (found.median(key) * rate)
            ratio = found.ratio(key, f"{name}, forward")
            print(f"| {key} | {said * work / 1e9:.1f} G | {share:.2f} | {ratio:.2f} | {said} |")
    print()


def sent() -> int:
    """Bytes that went through the loopback device so far."""
    line = next(line for line in LOOPBACK.read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def one_of(rank: int, size: int, results: str) -> None:
    """What one process of several does."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT + size), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(minutes=5))
    net = UNet(replace(SHAPE, channels=32))
    train = step(nn.parallel.DistributedDataParallel(net), inputs(1, 8))
    train()
    dist.barrier()
    before = sent()
    dist.barrier()
    for _ in range(STEPS):
        train()
    dist.barrier()
    if rank == 0:
        parameters = sum(p.numel() for p in net.parameters())
        Path(results).write_text(f"{parameters} {(sent() - before) / STEPS / size}")
    dist.barrier()
    dist.destroy_process_group()


def traffic() -> None:
    """Print the second table."""
    import tempfile

    if not LOOPBACK.exists():
        raise ValueError("/proc/net/dev: no such file; bytes between processes are counted on Linux alone")
    print("| processes | parameters | MB a process sends in a step | said | ratio |\n|---:|---:|---:|---:|---:|")
    for size in (2, 3, 4):
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "results"
            torch.multiprocessing.spawn(one_of, (size, str(results)), nprocs=size)
            parameters, measured = results.read_text().split()
        said = 2 * (size - 1) / size * 4 * int(parameters)
        ratio = float(measured) / said
        print(f"| {size} | {int(parameters):,} | {float(measured) / 1e6:.1f} | {said / 1e6:.1f} | {ratio:.3f} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.rounds < 1:
        raise ValueError(f"--rounds: {options.rounds}; give 1 or more")
    times(options.rounds)
    traffic()


if __name__ == "__main__":
    from ldm.core.command import run

    run(main)
