"""Prior preservation: pictures that the model draws before it is fine-tuned, and goes over while it is.

Source: Ruiz et al. 2022 (arXiv:2208.12242) section 3.3.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PilImage

from ldm.build import Model
from ldm.core.bundle import write_atomically
from ldm.core.images import save_png
from ldm.core.rng import fold
from ldm.data.position import Batches, ResumableSampler
from ldm.inference.pipeline import Request, txt2img
from ldm.training.wording import Wording

FOLDER, AT_ONCE = "prior", 16


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """What the model is to go on drawing where a prompt does not name what is new.

    Attributes:
        captions: templates of the prompts, as in `Wording`, without {token}. Picture i has template i, and with
            {caption} the caption of one training picture after the other. null: captions of what the model itself was
            trained on, as far as its vocabulary tells, for all of it is to stay; without one "{caption}".
        pictures: how many are drawn.
        share: of every batch that goes over them; 0.5 is the paper's weight of 1.
        steps: in which they are drawn; null: as many as the model's default.
    """

    captions: tuple[str, ...] | None = None
    pictures: int = 48
    share: float = 0.25
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"prior.share: {self.share} is not in (0, 1); it is a share of the batch")
        if self.pictures < 1 or self.captions == ():
            raise ValueError(
                "prior: at least 1 picture, and 1 caption or null for the model's own; or set prior to null"
            )

    def rows(self, batch: int) -> int:
        """Rows of a batch that go over the prior's pictures: at least one, and not all."""
        return min(max(round(self.share * batch), 1), batch - 1)


def prompts(
    spec: PriorSpec, captions: Sequence[str], subject: str, known: Sequence[str] = (), seed: int = 0
) -> list[str]:
    """What the prior's pictures show.

    Args:
        spec: of the prior.
        captions: of the training pictures.
        subject: as in `Wording`.
        known: captions of what the model was trained on, where it tells.
        seed: of which of them are taken.

    Returns:
        One prompt for each of `spec.pictures`.
    """
    if spec.captions is None and known:
        shuffled = random.Random(fold(seed, "known")).sample(known, len(known))
        return [shuffled[i % len(shuffled)] for i in range(spec.pictures)]
    wordings = [Wording(template=template, subject=subject) for template in spec.captions or ("{caption}",)]
    every = range(spec.pictures)
    return [wordings[i % len(wordings)](captions[i // len(wordings) % len(captions)]) for i in every]


def draw_prior(model: Model, spec: PriorSpec, wanted: Sequence[str], seed: int, out: Path) -> Path:
    """Draw one picture for each prompt into a folder with metadata.

    What an interrupted call drew of the same prompts is not drawn again.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:05}.png" for i in range(len(wanted))]
    left = [i for i, name in enumerate(names) if _prompt_of(folder / name) != wanted[i]]
    for start in range(0, len(left), AT_ONCE):
        rows = left[start : start + AT_ONCE]
        seeds = tuple(fold(seed, "prior", i) for i in rows)
        request = Request(prompts=tuple(wanted[i] for i in rows), seeds=seeds, steps=spec.steps, batch=AT_ONCE)
        for i, image in zip(rows, txt2img(model, request), strict=True):
            save_png(image, folder / names[i], {"prompt": wanted[i]})
    lines = [json.dumps({"file_name": n, "caption": c}) + "\n" for n, c in zip(names, wanted, strict=True)]
    write_atomically(folder / "metadata.jsonl", "".join(lines).encode())
    return folder


def _prompt_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    with PilImage.open(path) as picture:
        return json.loads(picture.info.get("ldm", "{}")).get("prompt")


class TwoSets:
    """Endless batches of two data sets laid end to end: `batch - kept` rows of the first, then `kept` of the second.

    Args:
        sizes: of the two.
        batch: rows of a batch.
        kept: rows of the second data set in it.
        seed: of both orders.
        parts: of the first data set, as in `ResumableSampler`.
    """

    def __init__(self, sizes: tuple[int, int], batch: int, kept: int, seed: int, parts: Sequence[int] | None = None):
        self._first = sizes[0]
        self._new = Batches(ResumableSampler(sizes[0], seed, parts=parts), batch - kept)
        self._old = Batches(ResumableSampler(sizes[1], fold(seed, "prior")), kept)

    def indices(self, step: int) -> list[int]:
        """The rows of the batch at `step` >= 0."""
        return [*self._new.indices(step), *(self._first + row for row in self._old.indices(step))]
