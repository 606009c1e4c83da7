"""A learned word as a file: one tensor under the word's name, the layout that diffusers reads and writes too."""

import hashlib
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ldm.core.bundle import BundleError, write_atomically
from ldm.nets.lora import read_tensors
from ldm.nets.text import TextEncoder

FORMAT = "ldm-word-1"
SEPARATORS = (",", " ", "\t", "\n")
A1111 = "emb_params"  # the one tensor of files in the layout of AUTOMATIC1111's web UI, named by their file


def vocabulary_hash(text: TextEncoder) -> str:
    """What tells one encoder's input embeddings from another's."""
    table = text.table().detach().cpu().float().contiguous()
    return hashlib.sha256(table.numpy().tobytes()).hexdigest()


def save_word(path: str | Path, word: str, text: TextEncoder) -> None:
    """Write the vectors of a word that `text` learned."""
    header = {"format": FORMAT, "vocabulary": vocabulary_hash(text)}
    write_atomically(Path(path), save({word: text.words.of(word).detach().cpu().contiguous()}, metadata=header))


def load_word(path: str | Path, text: TextEncoder) -> str:
    """Teach `text` the word of a file, in place, and say which it is.

    Raises:
        BundleError: the file holds no word, or one of another encoder.
        ValueError: `text` has the word already.
    """
    tensors, header = read_tensors(path)
    if len(tensors) != 1 or next(iter(tensors.values())).ndim not in (1, 2):
        raise BundleError(f"{path}: {len(tensors)} tensors; the file of a word holds one, of a row for each vector")
    name, vectors = next(iter(tensors.items()))
    word = Path(path).stem if name == A1111 else name
    known = header.get("vocabulary")
    if vectors.shape[-1] != text.table().shape[1] or known not in (None, vocabulary_hash(text)):
        raise BundleError(
            f"{path}: the word {word} was learned with another text encoder; it means nothing to this one"
        )
    check_word(word, text)
    text.teach(word, vectors.reshape(-1, vectors.shape[-1]).float().to(text.table().device))
    return word


def check_word(word: str, text: TextEncoder) -> None:
    """Refuse what cannot name something new.

    Raises:
        ValueError: it has a space or a comma, or the encoder's vocabulary has it.
    """
    if not word or any(separator in word for separator in SEPARATORS):
        raise ValueError(f"token: {word!r} is to be one word without spaces and commas, e.g. <my-cat>")
    if text.knows(word):
        raise ValueError(
            f"token: '{word}' is already a word of this text encoder; take one that is none, e.g. <{word}>"
        )


def mean_of(text: TextEncoder, words: str) -> Tensor:
    """The mean input embedding of some words (d)."""
    return text.table().detach()[text.spell(words)].mean(0)
