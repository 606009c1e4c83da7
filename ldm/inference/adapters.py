"""What a user adds to a model when drawing: LoRAs, each with a strength, and learned words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ldm.build import Model
from ldm.convert.lora import read_lora
from ldm.core.bundle import BundleError
from ldm.nets.embedding_file import load_word
from ldm.nets.lora import Lora, merge


@dataclass(frozen=True, eq=False)
class Added:
    """A LoRA file and how strongly it is used.

    Attributes:
        path: the file.
        scale: 1: as it was trained; 0: not at all; more exaggerates, below 0 moves away.
        lora: what it changes.
    """

    path: Path
    scale: float
    lora: Lora


def adaptable(model: Model) -> nn.ModuleDict:
    """The networks that a LoRA may change, under the names that it has for them."""
    parts: dict[str, nn.Module] = {"net": model.denoise.net}
    if isinstance(model.text, nn.Module):
        parts["text"] = model.text
    return nn.ModuleDict(parts)


def parse(given: str) -> tuple[Path, float]:
    """FILE or FILE:SCALE.

    Raises:
        ValueError: the scale is not a finite number.
    """
    path, colon, scale = given.rpartition(":")
    if not colon or Path(given).exists():
        return Path(given), 1.0
    try:
        number = float(scale)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise ValueError(
            f"--lora: '{scale}' in '{given}' is no number; give FILE or FILE:SCALE, e.g. style.safetensors:0.8"
        )
    return Path(path), number


def read(model: Model, given: str) -> Added:
    """A LoRA that is for `model`.

    Raises:
        BundleError: the file cannot be read, is no LoRA, or was made for another model.
        ValueError: the scale is not a number.
    """
    path, scale = parse(given)
    lora = read_lora(path, [name for name, p in adaptable(model).named_parameters() if p.ndim >= 2])
    if lora.model not in ("", model.sha256):
        raise BundleError(
            f"{path}: made for the model {lora.model[:12]}, and this is {model.sha256[:12]} ({model.folder}); "
            "give --model the folder that it was trained on"
        )
    return Added(path, scale, lora)


def add_loras(model: Model, given: Sequence[str]) -> tuple[Model, list[Added]]:
    """`model`, into whose weights LoRA files are merged in place, one after the other; their changes add up.

    A guess of the latent passes over their trigger words, as it did when they were trained.

    Raises:
        BundleError: a file cannot be used with this model.
        ValueError: a scale is not a number.
    """
    added = [read(model, word) for word in given]
    for one in added:
        merge(adaptable(model), one.lora, one.scale, str(one.path))
    return model.passing_over([word for one in added for word in one.lora.words]), added


def add_words(model: Model, paths: Sequence[Path]) -> list[str]:
    """Teach the text encoder of `model`, in place, the words of embedding files; returns the words.

    Raises:
        BundleError: a file holds no word, or one of another text encoder.
        ValueError: a word is given twice.
    """
    return [load_word(path, model.text) for path in paths]


def unused(added: Sequence[Added], words: Sequence[str], prompt: str) -> list[str]:
    """What the prompt does not call: warnings, one a line."""
    missing = [
        f"{one.path}: the prompt has none of its words: {', '.join(one.lora.words)}"
        for one in added
        if one.lora.words and not any(word in prompt for word in one.lora.words)
    ]
    return missing + [f"--embedding: the prompt does not have the word {word}" for word in words if word not in prompt]
