"""Exponential moving average of weights, with a warm-up so that it is useful from the first hundred steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ldm.core.sharded import gathered, shared_like


class Ema:
    """Averages the parameters of `module`; buffers are taken as they are.

        decay_k = min(decay, (1 + k) / (10 + k)) at update k = 1, 2, ...

    The warm-up forgets the random start: without it an average over 10,000 steps is still noise after 1,000.

    Args:
        module: what is averaged. Its parameters are copied in float32.
        decay: the final decay, in [0, 1). Its horizon is 1 / (1 - decay) steps.

    Raises:
        ValueError: `decay` is outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay: {decay} is outside [0, 1)")
        self.decay, self.updates = decay, 0
        self._module = module
        self._average = self._present()

    def follow(self) -> None:
        """Begin anew from the present weights: after these have been shared out among processes, as they are."""
        self.updates, self._average = 0, self._present()

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        trained = dict(self._trained())
        # the module may have been moved since it was given to us: a trainer does that
        self._average = {name: value.to(trained[name].device) for name, value in self._average.items()}
        live = [trained[name].detach().float() for name in self._average]
        torch._foreach_lerp_(list(self._average.values()), live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module holds the averaged weights."""
        live = {name: p.detach().clone() for name, p in self._trained()}
        self._copy_in(self._average)
        try:
            yield
        finally:
            self._copy_in(live)

    def weights(self) -> dict[str, Tensor]:
        """The module's state dict with averaged parameters, cloned; of shared weights, whole in the first process."""
        state = self._module.state_dict()
        average = {name: value.to(state[name].dtype) for name, value in self._average.items()}
        return {name: tensor.clone() for name, tensor in gathered(state | average).items()}

    def state_dict(self) -> dict[str, object]:
        """Everything that `load_state_dict` needs to go on exactly."""
        return {"updates": self.updates, "average": gathered(self._average)}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a `state_dict()`."""
        self.updates = state["updates"]
        for name, value in self._average.items():
            value.copy_(shared_like(value, state["average"][name]))

    def _present(self) -> dict[str, Tensor]:
        return {name: p.detach().clone().float() for name, p in self._trained()}

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._module.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def _copy_in(self, values: dict[str, Tensor]) -> None:
        for name, p in self._trained():
            p.copy_(values[name])
