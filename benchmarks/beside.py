"""What the benchmarks of speed share: two programs in turn, what the machine can do at most, and one line for each.

Other programs on the machine slow both sides alike only if the sides take turns, so every round runs each of them once
and the figure is the median of the rounds' own ratios.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Net = TypeVar("Net", bound=nn.Module)
LARGE = 2 * 9 * 640**2 * 2 * 64**2  # operations of `large_convolution`


@dataclass(frozen=True)
class Rounds:
    """Seconds of each program, round by round; all lists are of one length."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Of all rounds, in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """Median over the rounds of the time of `name` in units of that of `other`."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def in_turn(programs: Mapping[str, Callable[[], object]], rounds: int) -> Rounds:
    """Run every program once in each of `rounds` rounds, after one round that is not timed.

    The order turns round from one round to the next, so that none is always the first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for index in range(rounds + 1):
        for name in list(programs)[:: 1 if index % 2 else -1]:
            began = time.perf_counter()
            programs[name]()
            _finish()
            if index:
                seconds[name].append(time.perf_counter() - began)
    return Rounds(seconds)


def _finish() -> None:
    """Wait for the accelerator, whose calls return before they are done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def flops(run: Callable[[], object]) -> int:
    """Multiplications and additions of matrix products and convolutions in `run`, best on the meta device."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def large_convolution(dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    """A 3x3 convolution of `LARGE` operations, all of them done: about what the machine can do at most.

    It takes its turns beside the programs, so that other work on the machine slows it as it slows them.
    """
    layer = nn.Conv2d(640, 640, 3, padding=1, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    layer.requires_grad_(False)
    x = torch.randn(2, 640, 64, 64, device=device).to(dtype, memory_format=torch.channels_last)
    return lambda: layer(x)


def randomised(net: Net) -> Net:
    """Fill the weights in place so that activations keep about unit size; returns `net`, ready to run."""
    for parameter in net.parameters():
        parameter.data.normal_(0, max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 0.1)
    for module in net.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.weight.data.add_(1.0)
    return net.eval().requires_grad_(False)


def off_by(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference in units of the standard deviation of `theirs`."""
    return ((ours.float() - theirs.float()).abs().max() / theirs.float().std()).item()
