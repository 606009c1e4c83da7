"""LoRA files of diffusers (peft) and of kohya's scripts, for models of Stable Diffusion's shape, in and out.

ours       net.down.0.layers.0.attention.layers.0.self_attention.to_q.weight.lora_A
diffusers  unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight
kohya      lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from ldm.convert.names import text_names, unet_name
from ldm.core.bundle import BundleError, write_atomically
from ldm.nets.lora import FORMAT, Lora, LowRank, parse_lora, read_tensors, save_lora

Layout = Literal["ldm", "diffusers", "kohya"]
# (A, B) as the ends of names; the first pair is what is written, the second what older files have.
PAIRS = {
    "diffusers": ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight")),
    "kohya": ((".lora_down.weight", ".lora_up.weight"),),
}
ALPHA, TEXT_PREFIX = ".alpha", "text_model."


def read_lora(path: str | Path, weights: Iterable[str]) -> Lora:
    """A LoRA file in any of the layouts, by the names of the weights that it is for.

    Args:
        path: a safetensors file.
        weights: names of the model's weights, "net." before those of the U-Net and "text." before the encoder's.

    Raises:
        BundleError: the file cannot be read, is no LoRA, or changes what this model does not have.
    """
    tensors, header = read_tensors(path)
    if header.get("format") == FORMAT:
        return parse_lora(path, tensors, header)
    layout = next((name for name, pairs in PAIRS.items() if any(k.endswith(pairs[0]) for k in tensors)), None)
    layout = layout or ("diffusers" if any(k.endswith(PAIRS["diffusers"][1]) for k in tensors) else None)
    if layout is None:
        raise BundleError(f"{path}: a safetensors file, but no LoRA in a layout that is known (ours, diffusers, kohya)")
    found = _factors({key.removeprefix("base_model.model."): t for key, t in tensors.items()}, layout, path)
    changes = {}
    for weight in weights:
        parts = [_take(found, name) for name in their_names(weight, layout)]
        if any(part is not None for part in parts):
            changes[weight] = parts[0] if len(parts) == 1 and parts[0] is not None else _stacked(parts, path, weight)
    if found:
        raise BundleError(f"{path}: it changes {min(found)}, which this model does not have; it is for another model")
    return Lora(changes)


def write_lora(path: str | Path, lora: Lora, layout: Layout) -> None:
    """Write a LoRA in a layout; in that of diffusers, which has no alpha, B is scaled by alpha / r.

    Raises:
        OSError: the file cannot be written.
    """
    if layout == "ldm":
        save_lora(path, lora)
        return
    tensors: dict[str, Tensor] = {}
    for weight, change in lora.changes.items():
        names = their_names(weight, layout)
        for name, up in zip(names, change.up.chunk(len(names)), strict=True):
            a, b = (name + end for end in PAIRS[layout][0])
            tensors[a], tensors[b] = change.down.clone(), up.clone()
            if layout == "kohya":
                tensors[name + ALPHA] = torch.tensor(change.alpha)
            else:
                tensors[b] = up * (change.alpha / change.rank)
    header = {"format": "pt", "ss_training_comment": f"trigger words: {', '.join(lora.words)}"}
    write_atomically(Path(path), save({n: t.contiguous() for n, t in tensors.items()}, metadata=header))


def their_names(weight: str, layout: str) -> tuple[str, ...]:
    """What a layout calls a weight of ours; three names for stacked projections of queries, keys and values."""
    part, _, name = weight.partition(".")
    if part == "net":
        found: Sequence[str] = (unet_name(name.removesuffix(".weight")),)
        prefix = "unet."
    else:
        found = [TEXT_PREFIX + theirs.removesuffix(".weight") for theirs in text_names(name)]
        prefix = "text_encoder."
    if layout == "diffusers":
        return tuple(prefix + theirs for theirs in found)
    start = "lora_unet_" if part == "net" else "lora_te_"
    return tuple(start + theirs.replace(".", "_") for theirs in found)


def _factors(tensors: Mapping[str, Tensor], layout: str, path: str | Path) -> dict[str, LowRank]:
    """Every pair of a file, by their name of the layer."""
    found = {}
    left = set(tensors)
    for name, a, b in _pairs(tensors, layout):
        if b not in tensors:
            raise BundleError(f"{path}: {a} lacks its partner {b}; the file is damaged")
        alpha = float(tensors[name + ALPHA]) if name + ALPHA in tensors else float(tensors[a].shape[0])
        found[name] = LowRank(tensors[a], tensors[b], alpha)
        left -= {a, b, name + ALPHA}
    if left:
        raise BundleError(f"{path}: it holds {min(left)}, which is no part of a LoRA of plain low-rank pairs")
    # peft's own files name the U-Net's layers without a prefix
    bare = layout == "diffusers" and not any(name.startswith(("unet.", "text_encoder.")) for name in found)
    return {f"unet.{name}": change for name, change in found.items()} if bare else found


def _pairs(tensors: Mapping[str, Tensor], layout: str) -> Iterator[tuple[str, str, str]]:
    for down, up in PAIRS[layout]:
        for key in tensors:
            if key.endswith(down):
                name = key.removesuffix(down)
                yield name, key, name + up


def _take(found: dict[str, LowRank], name: str) -> LowRank | None:
    """The change of a layer, which is taken out; text towers are named with and without a prefix."""
    for spelled in (name, name.replace(f".{TEXT_PREFIX}", ".")):
        if spelled in found:
            return found.pop(spelled)
    return None


def _stacked(parts: Sequence[LowRank | None], path: str | Path, weight: str) -> LowRank:
    """One change of stacked rows from a change of each block of rows, of which some may be absent."""
    given = [part for part in parts if part is not None]
    rows, rank = given[0].up.shape[0], sum(part.rank for part in given)
    if any(part.up.shape[0] != rows or part.down.shape[1:] != given[0].down.shape[1:] for part in given):
        raise BundleError(f"{path}: the changes of q, k and v of {weight} differ in shape; the file is damaged")
    up, column = torch.zeros(rows * len(parts), rank), 0
    for block, part in enumerate(parts):
        if part is not None:
            columns = slice(column, column + part.rank)
            up[block * rows : (block + 1) * rows, columns] = part.up.float() * (part.alpha / part.rank)
            column += part.rank
    return LowRank(torch.cat([part.down.float() for part in given]), up, float(rank))
