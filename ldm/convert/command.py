"""What `scripts/convert.py` does with its options: read one layout, write another."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ldm.convert.compvis import write_compvis
from ldm.convert.diffusers import write_diffusers
from ldm.convert.native import write_native
from ldm.convert.opening import is_native, read_parts
from ldm.convert.parts import Parts

WRITERS = {"compvis": write_compvis, "diffusers": write_diffusers, "native": write_native}


def convert(options: argparse.Namespace) -> Path:
    """Read the model, write it in the other layout; returns where it is.

    Raises:
        ValueError: the model cannot be read, or has what the other layout has no place for.
        OSError: the result cannot be written.
    """
    source, out = options.model, options.out
    if out.resolve() == source.resolve():
        raise ValueError(f"OUT: {out} is what is read; give another name")
    if options.to == "compvis" and out.is_dir():
        raise ValueError(f"OUT: {out} is a folder; a single file is written, give its name")
    if options.to != "compvis" and out.is_file():
        raise ValueError(f"OUT: {out} is a file; a folder is written, give its name")
    if options.to == "native" and options.dtype is None and is_native(source):
        raise ValueError(f"IN: {source} is a model folder of this project already; copy it, or give --dtype")
    parts = read_parts(
        source, prediction=options.prediction, variant=options.variant, allow_pickle=options.allow_pickle
    )
    if options.dtype is not None:
        parts = in_precision(parts, getattr(torch, options.dtype))
    WRITERS[options.to](parts, out)
    return out


def in_precision(parts: Parts, dtype: torch.dtype) -> Parts:
    """The same model with every tensor in `dtype`."""

    def cast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}

    return replace(parts, net=cast(parts.net), codec=cast(parts.codec), text=cast(parts.text))
