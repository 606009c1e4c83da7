"""Published weights of CLIP's text towers, by open_clip's tag: downloaded once, by that package."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor


def downloaded(model: str, tag: str, names: Iterable[str]) -> dict[str, Tensor]:
    """The weights `names` of a model.

    Args:
        model: open_clip's name of the architecture.
        tag: open_clip's name of the weights.
        names: which of its tensors.

    Raises:
        ValueError: the model has no such weights, they belong to the other activation, of which open_clip only warns,
            or the download failed.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise ValueError(f"text.pretrained: '{tag}' is no tag of {model}; known: {', '.join(tags)}")
    built = open_clip.get_model_config(model).get("quick_gelu", False)
    trained = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
    if built != trained:
        other = f"{model}-quickgelu" if trained else model.removesuffix("-quickgelu")
        raise ValueError(f"text.model: '{tag}' was trained with the other activation; use '{other}'")
    try:
        with _without_log():  # of every retry; the error below says it once
            weights = open_clip.create_model(model, pretrained=tag).state_dict()
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(
            f"text.pretrained: the weights '{tag}' of {model} are downloaded once, which failed; "
            f"go online, or set pretrained to null and load a file ({reason})"
        ) from error
    return {name: weights[name] for name in names}


@contextmanager
def _without_log() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
