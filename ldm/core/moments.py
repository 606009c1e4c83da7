"""The moments of a training at which it shows what it can do: before the first step, at each validation, at the end."""

from abc import abstractmethod
from typing import Any

from lightning.pytorch.callbacks import Callback


class AtMoments(Callback):
    """Calls `draw` at each of them; a resumed training has its beginning behind it."""

    @abstractmethod
    def draw(self, trainer: Any, module: Any) -> None:
        """Show what `module` can do now; called again at a step that was drawn already."""

    @abstractmethod
    def forget(self) -> None:
        """Remove what an earlier training left in the folder; called by one process alone."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Before the first step."""
        if trainer.global_step == 0:
            if trainer.is_global_zero:
                self.forget()
            self.draw(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """At each validation."""
        self.draw(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """After the last step."""
        self.draw(trainer, pl_module)


def moment(step: int, steps: int) -> str:
    """The name of what was shown after `step` of `steps` steps."""
    return {0: "before", steps: "after"}.get(step, f"step {step}")
