"""The same prompts with the same seeds, drawn before, during and after a training, side by side in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from ldm.core.distributed import world
from ldm.core.images import grid, save_png
from ldm.core.moments import AtMoments, moment
from ldm.core.sheet import save_sheet
from ldm.inference.pipeline import Request, txt2img

FOLDER, SHEET = "samples", "samples.png"


class Samples(AtMoments):
    """Draws with the averaged weights of a `LatentDiffusion`; each moment is one row of `samples.png`.

    Args:
        prompts: one picture each, of seed 0, 1, ...
        out: folder of the run.
    """

    def __init__(self, prompts: Sequence[str], out: Path):
        self._prompts, self._out = tuple(prompts), out

    def forget(self) -> None:
        """Begin a new sheet."""
        for row in (self._out / FOLDER).glob("[0-9]*.png"):
            row.unlink(missing_ok=True)

    def draw(self, trainer: Any, module: Any) -> None:
        """One row more, but where it is there already."""
        row = self._out / FOLDER / f"{trainer.global_step:08}.png"
        drawn_by_all = module.device_mesh is not None  # who has a part of the weights must give it
        if world().told(row.is_file()) if drawn_by_all else row.is_file() or not trainer.is_global_zero:
            return
        with module.ema.applied():
            request = Request(prompts=self._prompts, seeds=tuple(range(len(self._prompts))))
            images = txt2img(module.model, request)
        if not trainer.is_global_zero:
            return
        row.parent.mkdir(parents=True, exist_ok=True)
        save_png(grid(images, len(images)), row)
        rows = [(moment(int(each.stem), trainer.max_steps), each) for each in sorted(row.parent.glob("*.png"))]
        save_sheet(rows, self._prompts, self._out / SHEET)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", grid(images, 4) / 2 + 0.5, trainer.global_step)
            elif hasattr(logger, "log_image"):  # Weights & Biases
                logger.log_image("samples", [Image.open(row)], step=trainer.global_step)
