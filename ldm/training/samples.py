"""The same prompts with the same seeds, drawn before, during and after a training, side by side in one picture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import nn

from ldm.build import Model
from ldm.core.distributed import world
from ldm.core.images import grid, save_png
from ldm.core.moments import AtMoments, moment
from ldm.core.sheet import save_sheet
from ldm.data.folder import read_listing
from ldm.data.tar import PIPE
from ldm.inference.pipeline import Request, txt2img
from ldm.nets.prompt import as_written, parse
from ldm.training.datamodule import pictures

FOLDER, SHEET = "samples", "samples.png"
MOST, ROWS = 8, 12  # captions of a data set that are drawn; moments of a sheet


class Samples(AtMoments):
    """Draws with the averaged weights (`ema`) of a module; each moment is one row of `samples.png`.

    Args:
        model: whose network the module trains.
        prompts: one picture each, of seed 0, 1, ...
        out: folder of the run.
        steps: in which they are drawn; None: the model's own.
    """

    def __init__(self, model: Model, prompts: Sequence[str], out: Path, steps: int | None = None):
        self._model, self._prompts, self._out, self._steps = model, tuple(prompts), out, steps

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
        with module.ema.applied(), _drawing(self._model.learned()):
            seeds = tuple(range(len(self._prompts)))
            images = txt2img(self._model, Request(prompts=self._prompts, seeds=seeds, steps=self._steps))
        if not trainer.is_global_zero:
            return
        row.parent.mkdir(parents=True, exist_ok=True)
        save_png(grid(images, len(images)), row, {"prompts": list(self._prompts)})
        rows = [(moment(int(each.stem), trainer.max_steps), each) for each in self._rows(row)]
        save_sheet(rows, [str(parse(prompt)) for prompt in self._prompts], self._out / SHEET)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", grid(images, 4) / 2 + 0.5, trainer.global_step)
            elif hasattr(logger, "log_image"):  # Weights & Biases
                logger.log_image("samples", [Image.open(row)], step=trainer.global_step)

    def _rows(self, last: Path) -> list[Path]:
        """The rows of these prompts: few of many, the first and the last among them, so that a sheet has an end."""
        alike = [row for row in sorted(last.parent.glob("*.png")) if _kind(row) == _kind(last)]
        if len(alike) <= ROWS:
            return alike
        return [alike[round(i * (len(alike) - 1) / (ROWS - 1))] for i in range(ROWS)]


def _kind(row: Path) -> tuple[tuple[int, int], str]:
    """Size and prompts of a row."""
    with Image.open(row) as picture:
        return picture.size, str(picture.info.get("ldm"))


@contextmanager
def _drawing(net: nn.Module) -> Iterator[None]:
    """Networks as they draw, without dropout, which would draw from the generator of training besides."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def samples_of(model: Model, path: str, out: Path, steps: int | None = None) -> list[Samples]:
    """What draws a few captions of the pictures of `path`, evenly spread over them.

    Nothing for an upscaler, which draws from small pictures, nor for a pipe, which has to be read for its captions.

    Raises:
        ValueError: the folder cannot be read.
    """
    if model.config.low is not None or path.startswith(PIPE):
        return []
    captions = [as_written(str(r.columns["caption"])) for r in read_listing(pictures(model, path)).records]
    return [Samples(model, captions[:: -(-len(captions) // MOST)], out, steps)]
