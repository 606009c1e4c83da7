"""Networks whose weights are about to be loaded, built without first drawing random ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

DRAWS: tuple[Callable[..., Any], ...] = (
    *(torch.Tensor.normal_, torch.Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.xavier_uniform_),
)


class blank(TorchFunctionMode):  # noqa: N801 (used like a function: `with blank():`)
    """Within the block random initial weights are not drawn, and hold whatever memory holds; buffers are as ever.

    Drawing a billion numbers takes longer than reading them from a file.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Skip a draw into a tensor that is there."""
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
