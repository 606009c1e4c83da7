"""Prompts to the conditions of a batch: weights, long texts, and everything that lies between two of them."""

from collections.abc import Sequence
from functools import partial

from ldm.build import Model
from ldm.inference.blend import Blend, between
from ldm.nets.cond import Cond
from ldm.nets.guess import in_vocabulary, subject_and_manner, with_phrases
from ldm.nets.prompt import parse
from ldm.nets.reading import chunks_of, read, unread


def condition(
    model: Model, prompts: Sequence[str], size: tuple[int, int], *, blend: Blend | None = None, chunks: int = 1
) -> Cond:
    """What `model` reads of `prompts`, or of what lies between them and those of `blend`.

    Args:
        size: (height, width) of the latents that are drawn.
        chunks: how often the encoder reads for each prompt, see `ldm.nets.reading.read`.
    """
    cond = _read(model, prompts, chunks)
    if blend is not None and blend.prompts is not None:
        cond = between(cond, _read(model, blend.prompts, chunks), blend.shares(cond.tokens))
    return model.guessed(cond, size)


def needed_chunks(model: Model, *prompts: str) -> int:
    """How often the model's encoder reads for the longest of `prompts`."""
    return max(chunks_of(model.text, parse(prompt)) for prompt in prompts)


def not_read(model: Model, prompt: str) -> str:
    """The words of a prompt that are too many even for the most chunks; empty if all are read."""
    return unread(model.text, parse(prompt))


def taken_for(model: Model, prompt: str) -> tuple[str | None, str | None]:
    """The known subject and manner that a guess reads those of a prompt as; None where it reads what is written."""
    if model.guess is None or model.vocabulary is None:
        return None, None
    parsed = parse(prompt)
    (subject,), (manner,) = subject_and_manner([parsed], model.unread)
    if not in_vocabulary(model.text, parsed, subject):
        return None, None
    pooled = read(model.text, [subject], chunks=1).pooled
    assert pooled is not None  # the guess reads it
    return model.vocabulary.taken_for(pooled[0], str(subject), str(manner))


def _read(model: Model, prompts: Sequence[str], chunks: int) -> Cond:
    reader, parsed = partial(read, model.text, chunks=chunks), [parse(prompt) for prompt in prompts]
    if model.guess is None:
        return reader(parsed)
    return with_phrases(model.text, parsed, model.unread, reader, model.vocabulary)
