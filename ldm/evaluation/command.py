"""What `scripts/evaluate.py` does with its options: open the model, measure, make tables."""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from ldm.build import Model, build_codec
from ldm.config import CodecSpec, SampleSpec
from ldm.convert.opening import open_model
from ldm.core.images import grid, save_png
from ldm.core.shapes import Image
from ldm.evaluation.caption_choice import Chooser, measure_choice
from ldm.evaluation.features import load_feature_net
from ldm.evaluation.parts import (
    NothingToAsk,
    Plan,
    measure_autoencoder,
    measure_concepts,
    measure_heldout,
    measure_keywords,
    measure_synonyms,
)
from ldm.evaluation.reconstruction import Measure
from ldm.evaluation.report import Draw
from ldm.evaluation.table import as_table

DRAWN = {
    "concepts": measure_concepts,
    "keywords": measure_keywords,
    "words": measure_synonyms,
    "heldout": measure_heldout,
}
SHOWN, COLUMNS = 32, 8  # pictures of each table in the sheet, and in a row of it
DEFAULT_SIZE = 128  # pixels, where there is no model to ask


def evaluate(
    options: argparse.Namespace,
    device: torch.device,
    measures: Callable[[], Mapping[str, Measure]],
    painter: Callable[[Model], tuple[SampleSpec, Draw]],
) -> Iterator[str]:
    """The text to print, each table as soon as it is measured.

    Args:
        options: of `scripts/evaluate.py`.
        device: where the model and the feature network run.
        measures: loads the functions of (picture, reconstruction), by the name of their figure.
        painter: from a model to the sampling that the options ask for, and what draws with it.

    Raises:
        ValueError: an option, the model or the data cannot be used; the message names it.
        OSError: the sheet cannot be written.
    """
    if options.autoencoder is not None:
        yield from _stage_one_alone(options, device, measures)
        return
    model = open_model(
        options.model, prediction=options.prediction, variant=options.variant, allow_pickle=options.allow_pickle
    ).to(device)
    if options.literal:
        model = model.as_written()
    plan, sheets = _plan(options, model.config.sample.size), []
    spec, draw = painter(model)
    asked = [measure for name, measure in DRAWN.items() if options.what in (name, "all")]
    if asked:
        net = load_feature_net().to(device)
        _check_sheet(options.grid)
        draw([""], [0])  # an option of the sampler, or a size, is refused here rather than after an hour of tables
    yield _heading(options, model, plan, spec)
    if options.what in ("autoencoder", "all"):
        yield as_table(measure_autoencoder(plan, model.codec, measures(), device))
    if options.what in ("captions", "all"):
        yield as_table(measure_choice(plan, _chooser(model), device))
    for measure in asked:
        try:
            rows, images = measure(plan, net, draw)
        except NothingToAsk as why:
            if options.what != "all":
                raise
            yield f"left out: {why}"
            continue
        sheets.append(images[:SHOWN])
        yield as_table(rows)
    if options.grid is not None and sheets:
        _save_sheet(torch.cat(sheets), options, model, spec)
        yield f"{options.grid}: the first {SHOWN} pictures drawn for each table, none left out"


def _chooser(model: Model) -> Chooser:
    model = model.as_written()  # two captions may be read as one
    return Chooser(
        posterior=model.codec.posterior, condition=model.condition, denoise=model.denoise, schedule=model.schedule
    )


def _stage_one_alone(
    options: argparse.Namespace, device: torch.device, measures: Callable[[], Mapping[str, Measure]]
) -> Iterator[str]:
    if options.what != "autoencoder":
        raise ValueError(f"--what: '{options.what}' needs a model that draws; with --autoencoder give autoencoder")
    codec, sha256 = build_codec(CodecSpec(path=str(options.autoencoder)), Path())
    plan = _plan(options, DEFAULT_SIZE)
    yield f"{options.autoencoder} ({sha256[:12]}): {plan.size}x{plan.size} pixels, seed {plan.seed}"
    yield as_table(measure_autoencoder(plan, codec, measures(), device))


def _plan(options: argparse.Namespace, size: int) -> Plan:
    return Plan(data=options.data, size=options.size or size, samples=options.samples, seed=options.seed)


def _check_sheet(path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f"--grid: no permission to write into {path.parent}")


def _heading(options: argparse.Namespace, model: Model, plan: Plan, spec: SampleSpec) -> str:
    text = f"{options.model} ({model.sha256[:12]}): {plan.size}x{plan.size} pixels, seed {plan.seed}"
    if options.what in ("autoencoder", "captions"):
        return text
    how = f"{spec.steps} steps of {spec.sampler}, {spec.spacing}, scale {spec.scale:g}"
    return f"{text}, {plan.samples} samples, {how}"


def _save_sheet(pictures: Image, options: argparse.Namespace, model: Model, spec: SampleSpec) -> None:
    recipe = {"model": model.sha256, "what": options.what, "samples": options.samples, "seed": options.seed}
    recipe |= {"steps": spec.steps, "sampler": spec.sampler, "spacing": spec.spacing, "scale": spec.scale}
    save_png(grid(pictures, COLUMNS), options.grid, recipe)
