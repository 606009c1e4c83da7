"""A seed gives the same picture alone, in a batch, and however a request is cut into batches."""

from dataclasses import replace

import pytest
import torch

from ldm.inference.pipeline import Request, txt2img
from ldm.model_folder import load_model
from ldm.samplers import SAMPLERS

LEVEL = 2 / 255  # one 8-bit level of a picture in [-1, 1]
REQUEST = Request(prompts=("a red circle", "a blue square", "", "green") * 2, seeds=(3, 1, 4, 15, 9, 2, 6, 5), steps=3)


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_picture_does_not_depend_on_its_batch(model, sampler):
    request = replace(REQUEST, sampler=sampler)
    together = txt2img(model, request, dtype=torch.float32)
    assert together.std() > 0.01 and (together[0] - together[1]).abs().max() > 10 * LEVEL
    for i in range(8):
        one = replace(request, prompts=request.prompts[i : i + 1], seeds=request.seeds[i : i + 1])
        alone = txt2img(model, one, dtype=torch.float32)
        assert (alone[0] - together[i]).abs().max() <= LEVEL
    cut = txt2img(model, replace(request, batch=3), dtype=torch.float32)
    assert (cut - together).abs().max() <= LEVEL


def test_the_seed_changes_the_picture(model):
    pictures = txt2img(model, Request(prompts=("a",) * 2, seeds=(0, 1), steps=3), dtype=torch.float32)
    assert (pictures[0] - pictures[1]).abs().max() > 10 * LEVEL
