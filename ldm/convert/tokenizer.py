"""The tokenizer files of a diffusers folder, made from CLIP's vocabulary."""

import json
from functools import partial
from pathlib import Path
from typing import Literal

from ldm.convert.folder_checks import reading
from ldm.core.bundle import write_atomically
from ldm.nets.clip_tokenizer import MARKS, vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"  # transformers' names of the two marks


def write_tokenizer(folder: Path, *, pad: Literal["zero", "eot"], max_tokens: int) -> None:
    """Write vocab.json, merges.txt and two files of settings, as transformers' CLIPTokenizer reads them.

    Args:
        folder: made if missing.
        pad: what fills captions up: token 0, which is "!", or the end mark.
        max_tokens: per caption, with the two marks.
    """
    learned = vocabulary()
    theirs = dict(zip(MARKS, (START, END), strict=True))
    ids = {theirs.get(piece, piece): number for piece, number in learned.ids.items()}
    filler = next(piece for piece, number in ids.items() if number == 0) if pad == "zero" else END
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": filler}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_tokens,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", ids)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learned.ranks)]
    write_atomically(folder / "merges.txt", ("\n".join(lines) + "\n").encode())
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", settings | special)


def padding(folder: Path) -> Literal["zero", "eot"] | None:
    """What the tokenizer of a diffusers folder fills captions up with; None where the folder does not say."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            text = reading(partial(_pad_token, folder / name), folder / name)
            if text is not None:
                return "eot" if text == END else "zero"
    return None


def _pad_token(path: Path) -> str | None:
    token = json.loads(path.read_text(encoding="utf-8")).get("pad_token")
    return token.get("content") if isinstance(token, dict) else token


def write_json(path: Path, value: object) -> None:
    """Write a JSON file as diffusers does."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
