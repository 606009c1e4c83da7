"""Does the model know which caption belongs to a picture? One right caption among up to ten, chosen by the denoiser.

Three questions, of the same form:

    held-out cells      a concept in a style that training has not shown it in, among names of other concepts
    names               training pictures, among names
    unseen synonyms     the same pictures and concepts, every caption with a word that training never used

The first is the diffusion classifier; the other two compare text encoders: the share of "names" that is left for
"unseen synonyms" is what the encoder brings along. All by `which_caption`, with common noise for the ten captions.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ldm.core.gaussian import Gaussian
from ldm.core.precision import autocast
from ldm.core.rng import NoiseStream, fold
from ldm.core.shapes import Image
from ldm.data.captions import compose, plain_view
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.denoiser import CondDenoiser
from ldm.evaluation.parts import CELLS, TRAIN, Plan
from ldm.evaluation.synonyms import unseen
from ldm.evaluation.table import Row, mean_row
from ldm.evaluation.which_caption import which_caption
from ldm.nets.cond import Cond
from ldm.process.schedule import Schedule
from ldm.process.weights import SimpleV

CHOICES, DRAWS, AT_ONCE = 10, 8, 16


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """What of a model is needed to choose.

    Attributes:
        posterior: pictures to q(z | x) at stage 2's scale.
        condition: captions to conditions.
        denoise: the network.
        schedule: its levels.
    """

    posterior: Callable[[Image], Gaussian]
    condition: Callable[[Sequence[str]], Cond]
    denoise: CondDenoiser
    schedule: Schedule


@dataclass(frozen=True)
class Question:
    """A picture and what it may show; the first caption is the right one."""

    row: int
    captions: tuple[str, ...]


def measure_choice(plan: Plan, model: Chooser, device: torch.device) -> list[Row]:
    """Share of right choices for each of the three questions, with standard errors.

    Fewer than ten concepts give fewer captions to choose from, and a question with nothing to choose from is left out.
    """
    cells = ImageFolder(FolderSpec(path=str(plan.data / CELLS), size=plan.size))
    train = ImageFolder(FolderSpec(path=str(plan.data / TRAIN), size=plan.size))
    names = {row["concept"]: row["name"] for row in (record.columns for record in train.records)}
    words = {concept: found[0] for concept, found in unseen(record.columns for record in train.records).items()}
    known = [i for i, record in enumerate(train.records) if record.columns["concept"] in words]
    among = {concept: names[concept] for concept in words}
    asked = (
        ("held-out cells, 1 caption", cells, range(len(cells)), names),
        ("training pictures, 1 name", train, known, among),
        ("training pictures, 1 unseen synonym", train, known, words),
    )
    rows = []
    for name, folder, pictures, called in asked:
        if len(called) >= 2:
            found = right(folder, questions(folder, pictures, called, plan), model, device, plan.seed)
            rows.append(mean_row(f"{name} of {min(CHOICES, len(called))}", "right", found))
    return rows


def questions(folder: ImageFolder, rows: Sequence[int], words: Mapping[str, str], plan: Plan) -> list[Question]:
    """A question for each of `plan.samples` of the rows, captions "<words>, <style>" with the picture's own style."""
    rng = random.Random(fold(plan.seed, "choice"))
    found = []
    for row in rng.sample(list(rows), min(plan.samples, len(rows))):
        columns = folder.records[row].columns
        own = str(columns["concept"])
        others = rng.sample(sorted(set(words) - {own}), min(CHOICES, len(words)) - 1)
        style = columns.get("style_words") or columns["style"]
        found.append(Question(row, tuple(f"{_word(words, c, columns)}, {style}" for c in (own, *others))))
    return found


@torch.inference_mode()
def right(
    folder: ImageFolder, asked: Sequence[Question], model: Chooser, device: torch.device, seed: int
) -> torch.Tensor:
    """1.0 where the first caption explains the picture best (n,), else 0.0; pictures on white, at their mean latent."""
    found = []
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        images = torch.stack([_on_white(folder, question.row) for question in part]).to(device)
        x0 = model.posterior(images).mean.float()
        noise = NoiseStream([fold(seed, "choice", question.row) for question in part])
        conds = [model.condition([question.captions[k] for question in part]) for k in range(len(part[0].captions))]
        with autocast(device):
            scores = which_caption(model.denoise, x0, conds, model.schedule, noise, draws=DRAWS, weight=SimpleV())
        found.append((scores.best == 0).cpu().double())
    return torch.cat(found)


def _word(words: Mapping[str, str], concept: str, columns: Mapping[str, Any]) -> str:
    """What the concept is called; a concept that training lacks by its own name."""
    return words.get(concept) or str(columns["name"])


def _on_white(folder: ImageFolder, row: int) -> torch.Tensor:
    return compose(folder.pixels(row), plain_view(folder.records[row].columns).background)
