"""Prompts to conditions: words that count for more or less, and texts longer than the encoder reads at once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ldm.nets.cond import Cond
from ldm.nets.prompt import Prompt
from ldm.nets.text import TextEncoder

CHUNKS = 8  # how often an encoder reads for one prompt, at most
SHARE = 4  # a chunk may end early at a comma by this share of its length

Piece = tuple[int, float]  # token id, weight
Weights = Float[Tensor, "c n"]


def read(text: TextEncoder, prompts: Sequence[Prompt], chunks: int = 1) -> Cond:
    """The conditions of weighted prompts, each read in `chunks` chunks.

    Every chunk is read alone, with its own end marks, and the states stand one after the other. Chunks that a prompt
    does not need are masked where the encoder has a mask, and are the empty text where it has none.

    States are multiplied by the weights of their words, and then by one number for the chunk that restores their mean
    (of CLIP, as the common programs do) or their size (of an encoder whose mean is next to nothing). Pooled states are
    the weighted mean over all words where the encoder pools by the mean; else those of the first chunk.

    What is plain and fits into one chunk is read as `text` itself reads it, to the bit.

    Args:
        text: the encoder.
        prompts: one for each of b images.
        chunks: as many as the longest of them needs (`chunks_of`), or more; what is beyond is not read.

    Returns:
        Tokens (b, chunks n, d), with n the encoder's `max_tokens`.
    """
    if chunks == 1 and all(prompt.plain for prompt in prompts):
        return text([str(prompt) for prompt in prompts])
    rows = [_chunks(text, prompt)[:chunks] for prompt in prompts]
    needed = torch.tensor([[i < len(row) for i in range(chunks)] for row in rows])
    padded = [chunk for row in rows for chunk in [*row, *[[]] * (chunks - len(row))]]
    ids, words = text.framed([[token for token, _ in chunk] for chunk in padded])
    device = next(text.parameters()).device  # type: ignore[attr-defined]
    weights = _weights(padded, ids.shape[1]).to(device)
    states = text.encode(ids.to(device), words.to(device))
    heavy = emphasised(states.tokens, weights, keep_mean=text.restores == "mean")
    words = (words & needed.reshape(-1, 1)).to(device)
    mask = None if states.mask is None else words.unflatten(0, (-1, chunks)).flatten(1)
    if mask is not None:
        heavy = heavy * words[:, :, None]
    tokens = heavy.unflatten(0, (-1, chunks)).flatten(1, 2)
    return Cond(tokens, mask, _pooled(text, states, weights * words, chunks))


def emphasised(tokens: Float[Tensor, "c n d"], weights: Weights, *, keep_mean: bool) -> Float[Tensor, "c n d"]:
    """States times the weights of their words, the mean (or the root mean square) of each chunk as before.

    A chunk whose weights are all 1 stays as it is, to the bit.
    """
    scaled = tokens * weights[:, :, None]
    measure = (lambda x: x.mean((1, 2))) if keep_mean else (lambda x: x.square().mean((1, 2)).sqrt())
    before, after = measure(tokens), measure(scaled)
    ratio = torch.where(after.abs() > 1e-3 * scaled.square().mean((1, 2)).sqrt(), before / after, 1.0)
    plain = (weights == 1).all(1)
    return torch.where(plain[:, None, None], tokens, scaled * ratio[:, None, None])


def chunks_of(text: TextEncoder, prompt: Prompt) -> int:
    """How many chunks it takes to read all of `prompt`, at most `CHUNKS`."""
    if not text.cut(str(prompt)):
        return 1
    return min(len(_chunks(text, prompt)), CHUNKS)


def unread(text: TextEncoder, prompt: Prompt) -> str:
    """The words that are beyond the last chunk, separated by single spaces; empty if all are read."""
    if chunks_of(text, prompt) < CHUNKS:
        return ""
    words, room = [word for word, _ in prompt.words()], 0
    ends = [end for _, end in _ends(text, prompt)]
    room = sum(end < CHUNKS for end in ends)
    return " ".join(words[room:])


def _chunks(text: TextEncoder, prompt: Prompt) -> list[list[Piece]]:
    """Whole words into chunks; where the last words of a chunk follow a comma near its end, they begin the next."""
    chunks: list[list[Piece]] = [[]]
    for pieces, index in _ends(text, prompt):
        while len(chunks) <= index:
            chunks.append([])
        chunks[index] += pieces
    return chunks


def _ends(text: TextEncoder, prompt: Prompt) -> list[tuple[list[Piece], int]]:
    """The pieces of every word, and the chunk in which it is."""
    room = text.max_tokens - 2
    placed: list[tuple[list[Piece], int]] = []
    index = used = since_comma = 0
    loose = 0  # words since the last comma of the chunk
    for word, weight in prompt.words():
        pieces = [(token, weight) for token in text.spell(word)[:room]]
        if used + len(pieces) > room:
            index += 1
            moved = loose if since_comma <= room // SHARE and since_comma + len(pieces) <= room else 0
            if moved:
                placed[-moved:] = [(held, index) for held, _ in placed[-moved:]]
            used = since_comma if moved else 0
            since_comma, loose = (since_comma, moved) if moved else (0, 0)
        placed.append((pieces, index))
        used += len(pieces)
        comma = word.endswith(",")
        since_comma, loose = (0, 0) if comma else (since_comma + len(pieces), loose + 1)
    return placed


def _weights(chunks: list[list[Piece]], n: int) -> Weights:
    """1 at end marks and padding."""
    weights = torch.ones(len(chunks), n)
    for row, chunk in enumerate(chunks):
        weights[row, 1 : 1 + len(chunk)] = torch.tensor([weight for _, weight in chunk])
    return weights


def _pooled(text: TextEncoder, states: Cond, weights: Weights, chunks: int) -> Tensor | None:
    if states.pooled is None:
        return None
    if text.pools == "first":
        return states.pooled.unflatten(0, (-1, chunks))[:, 0]
    total = (states.tokens * weights[:, :, None]).unflatten(0, (-1, chunks)).sum((1, 2))
    return F.normalize(total, dim=-1) * text.pooled_width**0.5
