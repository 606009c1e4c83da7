"""The vocabulary of a model: from the names and styles of its training pictures and the guess trained on them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.build import Model
from ldm.data.captions import NAMED_GROUNDS, ground, has_views, keywords_of
from ldm.data.folder import ImageFolder
from ldm.data.tar import PIPE
from ldm.nets.guess import LatentGuess
from ldm.nets.text import TextEncoder
from ldm.nets.vocabulary import MOST, Vocabulary
from ldm.training.datamodule import pictures

AT_ONCE = 64  # phrases encoded together
NOTHING_ALIKE = 1e6  # between styles that no subject has both of: farther than any two that can be compared


@torch.inference_mode()
def vocabulary_of(model: Model, path: str) -> Vocabulary | None:
    """What the pictures of `path` teach a guess to name.

    None where the model has no guess, where the pictures have no names, or too many to compare a prompt with.

    Raises:
        ValueError: the folder cannot be used.
    """
    if model.guess is None or path.startswith(PIPE):
        return None
    rows = [record.columns for record in ImageFolder(pictures(model, path)).records]
    known = {(str(row["name"]), str(row.get("style_words") or row["style"])) for row in rows if has_views(row)}
    words: dict[str, dict[str, None]] = {}
    for row in filter(has_views, rows):
        words.setdefault(str(row["name"]), {}).update(dict.fromkeys(keywords_of(row)))
    names, keywords = tuple(words), tuple(map(tuple, words.values()))
    if not 1 <= len(names) <= MOST:
        return None
    styles = tuple(sorted({style for _, style in known}))
    shown = torch.tensor([[(name, style) in known for style in styles] for name in names])
    states = _pooled(model.text, names)
    drawn = [_guesses(model.guess, states, manner) for manner in _pooled(model.text, styles)]
    apart = torch.zeros(len(styles), len(styles))
    for a in range(len(styles)):
        for b in range(len(styles)):
            both = shown[:, a] & shown[:, b]
            apart[a, b] = (drawn[a][both] - drawn[b][both]).square().mean() if both.any() else NOTHING_ALIKE
    return Vocabulary(names, states.half(), styles, shown, apart, tuple(map(ground, NAMED_GROUNDS)), keywords)


def _pooled(text: TextEncoder, phrases: Sequence[str]) -> Tensor:
    parts = [text(phrases[i : i + AT_ONCE]).pooled for i in range(0, len(phrases), AT_ONCE)]
    found = [part.float().cpu() for part in parts if part is not None]
    return torch.cat(found)  # a guess reads pooled texts, so there are some


def _guesses(guess: LatentGuess, states: Tensor, manner: Tensor) -> Tensor:
    device = next(guess.parameters()).device
    phrases = torch.stack([states, manner.expand_as(states)], dim=1).to(device)
    return torch.cat([guess(part).float().cpu() for part in phrases.split(AT_ONCE)])
