"""A denoiser is a function (x_t, logsnr) -> x_0; here a network becomes one.

Samplers, guidance and losses see only that function. What the network predicts, how its input and output are scaled
and in which units it is told the level are known to `NetDenoiser` alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ldm.core.shapes import Latent, LogSNR, PerImage, expand_like
from ldm.nets.cond import Cond
from ldm.process.prediction import Kind, Scaling, to_x0


@dataclass(frozen=True)
class Denoised:
    """What a denoiser says about a noisy latent.

    Attributes:
        x0: its estimate of the clean latent (b, *d).
        var_fraction: where between its lower bound, 0, and its upper bound, 1, the variance of the reverse step lies
            (b, *d), see `ldm.process.variance.learned_range`; a network may overshoot either. None: the denoiser has
            no opinion.
    """

    x0: Latent
    var_fraction: Latent | None = None


@runtime_checkable
class Denoiser(Protocol):
    """The seam of the whole system: x_t (b, *d) and its level (b,), nats, to an estimate of x_0."""

    def __call__(self, x_t: Latent, logsnr: LogSNR) -> Denoised: ...


@runtime_checkable
class CondDenoiser(Protocol):
    """A denoiser that still waits for its conditions, of the same b images."""

    def __call__(self, x_t: Latent, logsnr: LogSNR, cond: Cond) -> Denoised: ...


class NetDenoiser(nn.Module):
    """A network with the knowledge of what it predicts.

        prediction = c_skip x_t + c_out net(c_in x_t, time_of(logsnr), cond)
        x0_hat     = to_x0(kind, prediction, x_t, logsnr)

    Levels are read in the precision they come in, which must be float32 or wider, outside of whatever happens in the
    network: under `torch.autocast`, which is the caller's choice, only the network itself is narrowed. Its output
    returns to the dtype of `x_t` before it becomes x0_hat, because eps -> x_0 multiplies the rounding error by the
    noise-to-signal ratio.

    With `learned_variance` the network has twice the channels: the first half is the prediction, and the second half v
    gives var_fraction = (v + 1) / 2, so that v in [-1, 1] spans the range. Source: Nichol and Dhariwal 2021
    (arXiv:2102.09672) section 3.1.

    Args:
        net: network (x (b, *d), c_noise (b,), cond) -> (b, *d), or (b, 2 c, ...) for a learned variance.
        kind: what the network predicts.
        scaling: the coefficients around it, e.g. `VP()`, where the network's output is the prediction.
        time_of: level (b,), nats, to the network's own unit of noise, e.g. a schedule's `timesteps`.
        learned_variance: whether the network also says the variance of the reverse step.
    """

    def __init__(
        self,
        net: nn.Module,
        kind: Kind,
        scaling: Scaling,
        time_of: Callable[[LogSNR], PerImage],
        *,
        learned_variance: bool = False,
    ):
        super().__init__()
        self.net = net
        self.kind: Kind = kind
        self.scaling = scaling
        self.time_of = time_of
        self.learned_variance = learned_variance

    def forward(self, x_t: Latent, logsnr: LogSNR, cond: Cond) -> Denoised:
        """Estimate x_0.

        Args:
            x_t: noisy latents (b, *d), float32 or wider.
            logsnr: their level (b,), nats, float32 or wider.
            cond: conditions of the same b images.

        Returns:
            x0_hat, and var_fraction if it is learned, in the dtype of `x_t`.

        Raises:
            ValueError: the variance is learned and the network's output has not twice the channels of `x_t`.
        """
        c_in, c_skip, c_out = (expand_like(c, x_t).to(x_t.dtype) for c in self.scaling(logsnr))
        raw: Tensor = self.net(c_in * x_t, self.time_of(logsnr), cond).to(x_t.dtype)
        var_fraction = None
        if self.learned_variance:
            if raw.shape[1] != 2 * x_t.shape[1]:
                raise ValueError(
                    f"net: {raw.shape[1]} channels of output for {x_t.shape[1]} of x_t; a learned variance needs twice"
                    " as many (out_channels)"
                )
            raw, v = raw.chunk(2, dim=1)
            var_fraction = (v + 1) / 2
        prediction = c_skip * x_t + c_out * raw
        return Denoised(to_x0(self.kind, prediction, x_t, logsnr).to(x_t.dtype), var_fraction)


@dataclass
class Evaluations:
    """How much work a network was asked for.

    Attributes:
        calls: how often.
        rows: pictures in all of those calls together; guidance asks twice for each.
    """

    calls: int = 0
    rows: int = 0


@contextmanager
def counted(*denoisers: nn.Module) -> Iterator[Evaluations]:
    """Count the evaluations of one or more `NetDenoiser`s, together, within the block."""
    count = Evaluations()

    def add(module: nn.Module, arguments: object, result: Denoised) -> None:
        count.calls += 1
        count.rows += len(result.x0)

    handles = [denoise.register_forward_hook(add) for denoise in denoisers]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def bind(denoise: CondDenoiser, cond: Cond) -> Denoiser:
    """Fix the conditions of a denoiser.

    Raises:
        ValueError: at the call, if `x_t` has another number of images than `cond`.
    """

    def bound(x_t: Latent, logsnr: LogSNR) -> Denoised:
        if len(cond) != len(x_t):
            raise ValueError(f"cond: {len(cond)} rows for {len(x_t)} images; give one row for each image")
        return denoise(x_t, logsnr, cond)

    return bound
