"""The number of steps alone chooses the sampler, its path and the levels that are guided, as they were measured."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from ldm.core.shapes import expand_like
from ldm.denoiser import Denoised, counted
from ldm.evaluation.drawing import Drawing
from ldm.evaluation.guided_levels import with_interval
from ldm.guidance.spec import GuidanceSpec
from ldm.inference.pipeline import Request, resolve, txt2img
from ldm.model_folder import load_model
from ldm.process.grid import spaced
from ldm.process.variance import AnalyticVariance
from ldm.samplers import ddim
from ldm.samplers.tuned import Choice, Tuned, load_tuned, save_tuned

ASKED = Request(prompts=("a red circle",), seeds=(1,), steps=4, scale=2.0)


def fitted(schedule) -> Choice:
    """Four DDIM-like steps: keep nothing of the latent but what the last estimate says."""
    levels = spaced(schedule, 4, "trailing").logsnr.tolist()[:-1]
    return Choice(
        steps=4,
        scale=2.0,
        sampler="unipc",
        spacing="uniform_logsnr",
        distance=0.2,
        matched=0.1,
        logsnr=tuple(levels),
        keep=(0.9, 0.8, 0.7, 0.0),
        recent=((0.3,), (0.1, 0.3), (0.0, 0.1, 0.5), (0.0, 0.0, 0.0, 1.0)),
        lo=levels[1] - 0.1,
        hi=levels[2] + 0.1,
    )


@pytest.fixture
def model(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    plain = load_model(folder)
    level = spaced(plain.schedule, 1, "trailing").logsnr[0].item()
    variance = AnalyticVariance(logsnr=(level,), gamma=(0.5,), model=plain.sha256)
    tables = Tuned(variance=variance, timesteps=(plain.schedule.steps - 1,), paths=(), nats=(), pictures=1)
    save_tuned(folder, replace(tables, choices=(fitted(plain.schedule),)))
    return load_model(folder)


def test_steps_alone_use_what_was_measured(model):
    choice = fitted(model.schedule)
    spec = resolve(model, ASKED)
    assert (spec.sampler, spec.spacing) == ("matched", "matched")
    assert spec.guidance == GuidanceSpec(lo=choice.lo, hi=choice.hi)
    other = resolve(model, replace(ASKED, steps=5))  # nothing was fitted for 5: the solver that was best nearby
    assert (other.sampler, other.spacing, other.guidance) == ("unipc", "uniform_logsnr", spec.guidance)
    far = resolve(model, replace(ASKED, scale=7.0))  # nor for such a scale
    assert (far.sampler, far.guidance) == ("unipc", GuidanceSpec())


@pytest.mark.parametrize(
    "given", [{"sampler": "ddim"}, {"spacing": "trailing"}, {"guidance": GuidanceSpec(contrast=0.5)}]
)
def test_whoever_chooses_gets_what_they_chose(model, given):
    spec = resolve(model, replace(ASKED, **given))
    assert all(getattr(spec, name) == value for name, value in given.items())
    assert spec.sampler != "matched" and spec.guidance in (GuidanceSpec(), given.get("guidance"))


def test_levels_that_are_not_guided_cost_one_evaluation(model):
    with counted(model.denoise) as evaluations:
        txt2img(model, ASKED, dtype=torch.float32)
    assert evaluations.rows == 4 + 2  # two of four levels are guided


@pytest.mark.parametrize(("lo", "hi"), [(-1.0, 2.0), (-math.inf, 0.5), (-3.0, math.inf), (-math.inf, math.inf)])
def test_the_levels_where_guidance_matters_are_found(model, lo, hi):
    """Data of unit normals, which guidance moves at some levels only."""

    def plain(x_t, logsnr):
        return Denoised(expand_like(logsnr, x_t).sigmoid().sqrt() * x_t)

    def guided(x_t, logsnr):
        matters = (logsnr > lo) & (logsnr < hi)
        return Denoised(plain(x_t, logsnr).x0 + expand_like(matters.double(), x_t))

    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = spaced(model.schedule, 9, "trailing")
    solver = Choice(steps=9, scale=2.0, sampler="ddim", spacing="trailing", distance=1.0)
    tables = replace(load_tuned(model.folder, model.sha256), choices=())
    beyond = ddim.sample(guided, x, grid) + 0.1  # less guidance always ends further away
    found = with_interval(solver, model, Drawing(guided, plain, x), beyond, tables)
    levels = grid.logsnr.tolist()[:-1]
    kept = [v for v in levels if (found.lo is None or found.lo <= v) and (found.hi is None or v <= found.hi)]
    assert kept == [v for v in levels if lo < v < hi] != []
