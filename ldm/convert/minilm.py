"""The sentence encoder all-MiniLM-L6-v2: from the layout of transformers to ours."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ldm.core.bundle import BundleError, write_atomically
from ldm.nets.sentence import CONFIG, TOKENIZER, WEIGHTS, BertConfig

# 1 / root mean square of the last states over "{name}, {style}, on a {colour} background" with the CLDR emoji names.
TOKEN_SCALE = 2.3

# The network has 512 positions; its authors trained it on 128 and use 256.
POSITIONS = 256

MINILM = BertConfig(
    layers=6,
    width=384,
    heads=12,
    feed_forward=1536,
    vocab=30522,
    max_positions=POSITIONS,
    eps=1e-12,
    token_scale=TOKEN_SCALE,
)

# Ours -> theirs, inside one layer; several of theirs are stacked.
LAYER = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "out_norm": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "down_norm": ("output.LayerNorm",),
}


def from_transformers(theirs: Mapping[str, Tensor], config: BertConfig) -> dict[str, Tensor]:
    """Weights of a `BertModel` under our names, in their own precision, without the pooler, which nothing uses.

    The embedding of "first text" is added to every position, since there is never a second.

    Raises:
        ValueError: a tensor is absent.
    """
    try:
        first_text = theirs["embeddings.token_type_embeddings.weight"][0]
        ours = {
            "pieces": theirs["embeddings.word_embeddings.weight"],
            "positions": theirs["embeddings.position_embeddings.weight"][: config.max_positions] + first_text,
            "norm.weight": theirs["embeddings.LayerNorm.weight"],
            "norm.bias": theirs["embeddings.LayerNorm.bias"],
        }
        for i in range(config.layers):
            for name, sources in LAYER.items():
                for part in ("weight", "bias"):
                    stacked = [theirs[f"encoder.layer.{i}.{source}.{part}"] for source in sources]
                    ours[f"layers.{i}.{name}.{part}"] = torch.cat(stacked)
    except KeyError as error:
        raise ValueError(f"tensor {error} is absent; expected a BertModel with {config.layers} layers") from error
    return ours


def convert_minilm(package: Path, out: Path) -> None:
    """Write the folder that `SentenceSpec.bundle` names: weights in float16, `config.json`, `tokenizer.json`.

    Args:
        package: folder with `model.safetensors` and `tokenizer.json` of sentence-transformers/all-MiniLM-L6-v2.
        out: folder to write; made if it is missing.

    Raises:
        BundleError: a file of the package is missing, damaged or of another kind.
        OSError: the folder cannot be written.
    """
    for name in (WEIGHTS, TOKENIZER):
        if not (package / name).is_file():
            raise BundleError(f"{package / name}: no such file")
    try:
        ours = from_transformers(load_file(package / WEIGHTS), MINILM)
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{package / WEIGHTS}: not the weights of all-MiniLM-L6-v2 ({error})") from error
    out.mkdir(parents=True, exist_ok=True)
    # No metadata: its order in the file is not fixed, and the same input must give the same bytes.
    write_atomically(out / WEIGHTS, save({name: tensor.half().contiguous() for name, tensor in ours.items()}))
    write_atomically(out / CONFIG, (json.dumps(asdict(MINILM), indent=2) + "\n").encode())
    write_atomically(out / TOKENIZER, (package / TOKENIZER).read_bytes())
