"""The choice of captions: what is asked, and that a model which knows the answer is right."""

import json

import pytest
import torch
from PIL import Image

from ldm.core.gaussian import Gaussian
from ldm.data.folder import FolderSpec, ImageFolder
from ldm.denoiser import Denoised
from ldm.evaluation.caption_choice import CHOICES, Chooser, measure_choice, questions
from ldm.evaluation.parts import Plan
from ldm.evaluation.synonyms import SYNONYMS, unseen
from ldm.nets.cond import Cond
from ldm.process.schedule import Cosine

CONCEPTS = sorted(SYNONYMS)[:14]


@pytest.fixture
def plan(tmp_path):
    """Two splits of grey squares; the shade says the concept."""
    for part in ("train", "heldout_cells", "heldout_concepts"):
        (tmp_path / part).mkdir()
        rows = []
        for i, concept in enumerate(CONCEPTS):
            Image.new("RGB", (16, 16), (17 * i,) * 3).save(tmp_path / part / f"{i}.png")
            row = {"file_name": f"{i}.png", "caption": f"thing {i}, flat", "concept": concept, "name": f"thing {i}"}
            rows.append(json.dumps(row | {"style": "flat", "keywords": []}))
        (tmp_path / part / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return Plan(data=tmp_path, size=16, samples=12)


def shade(caption):
    """What a reader who knows names and synonyms expects of a caption: the shade in [-1, 1]."""
    said = caption.removesuffix(", flat")
    numbers = [i for i, c in enumerate(CONCEPTS) if said in (f"thing {i}", *SYNONYMS[c])]
    return 17 * numbers[0] / 127.5 - 1


def chooser(expected):
    """A denoiser that is sure of the shade that `expected` reads from a caption."""
    return Chooser(
        posterior=lambda images: Gaussian(images, torch.zeros_like(images)),
        condition=lambda captions: Cond(tokens=torch.tensor([[[expected(c)]] for c in captions])),
        denoise=lambda x, level, cond: Denoised(cond.tokens[:, :, :, None].expand(x.shape)),
        schedule=Cosine(),
    )


def test_a_model_that_knows_the_words_is_right_and_one_that_does_not_is_not(plan):
    cpu = torch.device("cpu")
    knows = measure_choice(plan, chooser(shade), cpu)
    assert [row.value for row in knows] == [1.0, 1.0, 1.0] and [row.n for row in knows] == [12, 12, 12]
    names_only = measure_choice(plan, chooser(lambda c: shade(c) if c.startswith("thing") else 2.0), cpu)
    assert [row.value for row in names_only][:2] == [1.0, 1.0]
    wrong = measure_choice(plan, chooser(lambda c: -shade(c)), cpu)
    assert wrong[0].value < 0.5


def test_every_question_has_ten_different_captions_and_the_right_one_first(plan):
    folder = ImageFolder(FolderSpec(path=str(plan.data / "train"), size=16))
    words = {concept: f"word {concept}" for concept in CONCEPTS}
    asked = questions(folder, range(len(folder)), words, plan)
    for question in asked:
        assert len(set(question.captions)) == CHOICES
        assert question.captions[0] == f"word {CONCEPTS[question.row]}, flat"
    assert asked == questions(folder, range(len(folder)), words, plan)


def test_a_synonym_with_a_word_that_training_used_is_left_out():
    rows = [{"concept": "dog-face", "name": "dog face", "keywords": ["Mutts"]}, {"concept": "x", "name": "x"}]
    assert unseen(rows) == {"dog-face": ("hound",)}
