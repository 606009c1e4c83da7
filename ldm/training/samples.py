"""The same prompts with the same seeds, drawn before, during and after a training, side by side in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw, ImageFont

from ldm.core.distributed import world
from ldm.core.images import grid, save_png
from ldm.inference.pipeline import Request, txt2img

FOLDER, SHEET = "samples", "samples.png"
MARGIN = 72  # pixels for the name of a row


class Samples(Callback):
    """Draws with the averaged weights of a `LatentDiffusion`; each moment is one row of `samples.png`.

    Args:
        prompts: one picture each, of seed 0, 1, ...
        out: folder of the run.
    """

    def __init__(self, prompts: Sequence[str], out: Path):
        self._prompts, self._out = tuple(prompts), out

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Before the first step."""
        if trainer.global_step == 0:
            self._draw(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """At each validation."""
        self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """After the last step."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Any, module: Any) -> None:
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
        _sheet(sorted(row.parent.glob("*.png")), self._prompts, self._out / SHEET, trainer.max_steps)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", grid(images, 4) / 2 + 0.5, trainer.global_step)
            elif hasattr(logger, "log_image"):  # Weights & Biases
                logger.log_image("samples", [Image.open(row)], step=trainer.global_step)


def _sheet(rows: Sequence[Path], prompts: Sequence[str], path: Path, steps: int) -> None:
    """Rows below each other, the prompts above them and the moments beside them."""
    strips = [Image.open(row).convert("RGB") for row in rows]
    width, height = strips[0].size
    font, cell = ImageFont.load_default(12), width // len(prompts)
    heads = [wrapped(prompt, cell, font) for prompt in prompts]
    top = 8 + 15 * max(head.count("\n") + 1 for head in heads)
    sheet = Image.new("RGB", (MARGIN + width, top + height * len(strips)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, head in enumerate(heads):
        pen.multiline_text((MARGIN + i * cell + 4, 2), head, "black", font)
    for i, (row, strip) in enumerate(zip(rows, strips, strict=True)):
        sheet.paste(strip, (MARGIN, top + i * height))
        step = int(row.stem)
        name = {0: "before", steps: "after"}.get(step, f"step {step}")
        pen.text((4, top + i * height + height // 2), name, "black", font)
    pixels = torch.from_numpy(np.array(sheet)).permute(2, 0, 1) / 127.5 - 1
    save_png(pixels, path, {"prompts": list(prompts)})


def wrapped(text: str, width: int, font: Any) -> str:
    """`text` in lines of at most `width` pixels; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width - 8 or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
