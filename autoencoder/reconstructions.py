"""The same held-out pictures through the autoencoder before, during and after a training, side by side."""

from pathlib import Path
from typing import Any

import torch

from autoencoder.model import Autoencoder
from ldm.core.images import grid, save_png
from ldm.core.moments import AtMoments, moment
from ldm.core.shapes import Image
from ldm.core.sheet import save_sheet

FOLDER, SHEET, ORIGINAL = "reconstructions", "reconstructions.png", "original.png"
SHOWN = 8


class Reconstructions(AtMoments):
    """Reconstructs with the averaged weights of an `AutoencoderTraining`, at each validation and at both ends.

    Each moment is one row of `reconstructions.png`, below the pictures themselves.

    Args:
        pictures: (b, 3, h, w) in [-1, 1]; of more than 8 the first.
        out: folder of the run.
    """

    def __init__(self, pictures: Image, out: Path):
        self._pictures, self._out = pictures[:SHOWN], out

    def forget(self) -> None:
        """Begin a new sheet."""
        for row in [*(self._out / FOLDER).glob("[0-9]*.png"), self._out / FOLDER / ORIGINAL]:
            row.unlink(missing_ok=True)

    @torch.no_grad()
    def draw(self, trainer: Any, module: Any) -> None:
        """One row more, but where it is there already."""
        row = self._out / FOLDER / f"{trainer.global_step:08}.png"
        if row.is_file() or not trainer.is_global_zero:
            return
        row.parent.mkdir(parents=True, exist_ok=True)
        original = row.with_name(ORIGINAL)
        if not original.is_file():
            self._save(self._pictures, original)
        model: Autoencoder = module.model
        with module.ema.applied():
            images = model.decode(model.encode(self._pictures.to(module.device)).mean).float().clamp(-1, 1)
        self._save(images, row)
        moments = sorted(row.parent.glob("[0-9]*.png"))
        named = [(moment(int(each.stem), trainer.max_steps), each) for each in moments]
        save_sheet([("original", original), *named], [""] * len(images), self._out / SHEET)

    def _save(self, images: Image, path: Path) -> None:
        save_png(grid(images, len(images)).cpu(), path)
