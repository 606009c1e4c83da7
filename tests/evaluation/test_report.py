"""Evaluation end to end without a model: a painter that copies real pictures, or paints the wrong ones."""

import numpy as np
import pytest
import torch
from painted import COLOURS, SIZE, STYLES, MeanColour, paint, write_folder
from PIL import Image as PilImage

from autoencoder.metrics import psnr
from ldm.core.gaussian import Gaussian
from ldm.data.captions import WHITE
from ldm.evaluation.gallery import Labelled, labelled_features
from ldm.evaluation.reconstruction import heldout_views, reconstruction_rows
from ldm.evaluation.report import (
    drawn,
    heldout_cell_rows,
    judge,
    one_per_concept,
    some,
    trained_concept_rows,
)
from ldm.evaluation.style import in_style
from ldm.evaluation.table import Row, as_table, mean_row


@pytest.fixture
def folders(tmp_path):
    """Training data of every cell but (apple, dot) and (leaf, disc), which are held out."""
    held = [("apple", "dot"), ("leaf", "disc")]
    kept = [(concept, style) for concept in COLOURS for style in STYLES if (concept, style) not in held]
    return write_folder(tmp_path / "train", kept), write_folder(tmp_path / "heldout_cells", held)


def test_features_are_kept_until_a_picture_or_the_network_changes(folders):
    train, _ = folders
    first = labelled_features(MeanColour(), train, SIZE)
    kept = list((train.parent / "features").iterdir())
    assert len(kept) == 1

    class Never(MeanColour):
        def forward(self, x):
            raise AssertionError("the cache was not used")

    again = labelled_features(Never(), train, SIZE)
    assert torch.equal(again.features, first.features)
    assert again.concepts == first.concepts == ["apple", "leaf", "sea", "sea", "sun", "sun"]
    assert torch.allclose(labelled_features(MeanColour(2.0), train, SIZE).features, 2 * first.features)
    PilImage.new("RGB", (SIZE, SIZE), (0, 0, 0)).save(train / "disc-apple.png")
    assert not torch.equal(labelled_features(MeanColour(), train, SIZE).features, first.features)


def test_a_folder_without_concepts_is_refused(tmp_path):
    folder = write_folder(tmp_path / "train", [("apple", "dot")])
    (folder / "metadata.jsonl").write_text('{"file_name": "dot-apple.png", "caption": "an apple"}')
    with pytest.raises(ValueError, match="dot-apple.png: no concept"):
        labelled_features(MeanColour(), folder, SIZE)


def test_a_model_that_draws_the_concept_scores_what_real_pictures_score(folders):
    train, cells = (labelled_features(MeanColour(), path, SIZE) for path in folders)
    asked = one_per_concept(train, 200, seed=0)
    assert sorted(asked.concepts) == sorted(COLOURS)
    rows = trained_concept_rows(MeanColour(), drawn(paint, asked, 0), asked, train)
    assert rows[0] == Row("training concepts, drawn", "top-1", 1.0, 0.0, 4)
    found = {
        (row.pictures, row.figure): row
        for row in heldout_cell_rows(MeanColour(), paint(cells.captions, []), cells, train)
    }
    assert found["held-out cells, drawn", "top-1"].value == 1.0
    assert found["held-out cells, real", "top-1"].value == 1.0
    assert found["held-out cells, drawn / real", "top-1"].value == 1.0
    assert found["held-out cells, real, dot", "top-5"].n == 1
    assert {row.n for key, row in found.items() if "effnet" in key[1]} == {2}


def test_a_model_that_draws_something_else_scores_nothing(folders):
    train, cells = (labelled_features(MeanColour(), path, SIZE) for path in folders)
    wrong = paint(["sun, dot"] * len(cells.captions), [])
    rows = heldout_cell_rows(MeanColour(), wrong, cells, train)
    assert [row.value for row in rows if row.pictures == "held-out cells, drawn" and row.figure == "top-1"] == [0.0]


def numbered(n: int) -> Labelled:
    names = [str(i) for i in range(n)]
    return Labelled(torch.arange(n, dtype=torch.float32)[:, None], names, [f"c{i // 3}" for i in range(n)], ["a"] * n)


def test_choices_are_functions_of_the_seed_and_keep_rows_together():
    data = numbered(30)
    one, other = one_per_concept(data, 5, seed=1), one_per_concept(data, 5, seed=2)
    assert one.captions == one_per_concept(data, 5, seed=1).captions != other.captions
    assert len(set(one.concepts)) == 5
    for chosen in (one, some(data, 7, seed=1)):
        assert [str(int(v)) for v in chosen.features[:, 0]] == chosen.captions
        assert [f"c{int(caption) // 3}" for caption in chosen.captions] == chosen.concepts
    assert sorted(some(data, 99, seed=0).captions) == sorted(data.captions)
    with pytest.raises(ValueError, match="samples: 0"):
        some(data, 0, seed=0)


def test_every_picture_has_a_seed_of_its_own():
    seen = []

    def record(prompts, seeds):
        seen.append(list(seeds))
        return torch.zeros(len(prompts), 3, 8, 8)

    asked = Labelled(torch.zeros(3, 1), ["same", "same", "other"], ["c"] * 3, ["a"] * 3)
    for seed in (0, 0, 1):
        drawn(record, asked, seed)
    assert seen[0] == seen[1]
    assert len({*seen[0], *seen[2]}) == 6


def test_judging_training_pictures_by_themselves_is_always_right():
    data = numbered(30)
    data = Labelled(torch.eye(30), data.captions, data.concepts, data.styles)
    assert judge(data.features, data, data).overall.top1 == 1.0


class Halving:
    """Posterior mean x / 2 with variance 1 / 4; decodes as it is."""

    def encode(self, x):
        return Gaussian(x / 2, torch.full_like(x, 0.25))

    def decode(self, z):
        return z


def test_reconstruction_figures_are_means_over_pictures():
    """Pictures of constant c come back as c / 2: PSNR 20 log10(4 / |c|); KL (c^2 / 4 + 1 / 4 - 1 + log 4) / 2."""
    c = torch.tensor([1.0, -0.5, 0.25])
    images = c.reshape(3, 1, 1, 1).expand(3, 3, 12, 12)
    rows = reconstruction_rows("constant", Halving(), iter(images.split(2)), {"PSNR (dB)": psnr})
    decibels, kl = 20 * torch.log10(4 / c.abs()), (c**2 / 4 + 0.25 - 1 + np.log(4)) / 2
    assert [row.figure for row in rows] == ["PSNR (dB)", "KL (nats/dim)"]
    assert [row.value for row in rows] == pytest.approx([decibels.mean().item(), kl.mean().item()], rel=1e-5)
    assert rows[0].error == pytest.approx(decibels.std().item() / 3**0.5, rel=1e-5)
    assert {row.n for row in rows} == {3}
    with pytest.raises(ValueError, match="no pictures"):
        reconstruction_rows("none", Halving(), iter([]), {"PSNR (dB)": psnr})


def test_heldout_views_show_each_picture_on_white_and_on_a_colour(folders):
    _, cells = folders
    views = torch.cat(list(heldout_views(cells, SIZE, seed=0, batch=2)))
    assert views.shape == (4, 3, SIZE, SIZE)
    corners = views[:, :, 0, 0]
    white = torch.tensor(WHITE) / 127.5 - 1
    assert torch.equal(corners[0::2], white.expand(2, 3))
    assert (corners[1::2] != white).any(1).all()
    assert torch.equal(views, torch.cat(list(heldout_views(cells, SIZE, seed=0, batch=3))))


def test_table_is_markdown_with_a_cell_for_each_column():
    rows = [mean_row("cells", "PSNR (dB)", torch.tensor([27.0, 29.0])), Row("cells", "ratio", 0.5, None, 10)]
    lines = as_table(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["cells", "PSNR (dB)", "28.0000", "1.0000", "2"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["cells", "ratio", "0.5000", "", "10"]


def test_a_style_is_what_pictures_of_other_concepts_have():
    gallery = Labelled(torch.eye(4), ["x"] * 4, ["sun", "sun", "sea", "sea"], ["dot", "disc", "dot", "disc"])
    asked = Labelled(torch.zeros(3, 4), ["x"] * 3, ["sun", "sun", "sea"], ["dot", "disc", "dot"])
    like = torch.tensor([[0.9, 0.0, 1.0, 0.0], [0.0, 9.0, 1.0, 0.0], [0.0, 1.0, 9.0, 0.0]])
    assert in_style(like, asked, gallery, k=1) == [True, False, False]  # its own concept's pictures are not looked at
