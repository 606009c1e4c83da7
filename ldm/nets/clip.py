"""CLIP's text encoder: that of Stable Diffusion 1 and 2, or a small one trained from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ldm.nets.clip_package import architecture
from ldm.nets.clip_pretrained import downloaded
from ldm.nets.clip_tokenizer import ClipTokenizer
from ldm.nets.clip_tower import ClipTower
from ldm.nets.cond import Cond
from ldm.nets.sentence import Ids, WordMask, require_captions
from ldm.nets.words import Extended, NewWords

# What open_clip says of a model with a text tower of CLIP's own kind; what says more is another network.
PLAIN_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """A CLIP text tower.

    Stable Diffusion 1 is `model="ViT-L-14-quickgelu", pad="eot"`; Stable Diffusion 2 is `model="ViT-H-14",
    layer="penultimate"`. A small tower to train from scratch sets `width`, `layers`, `heads` and `trainable`.

    Attributes:
        model: open_clip's name of the architecture. Names with and without "-quickgelu" are different networks.
        pretrained: open_clip's tag of weights, which are downloaded; None: random weights, or those of a file that
            the caller loads.
        layer: which layer's states are the tokens; the final normalisation is applied to either.
        pooled: whether there is a pooled state: the last layer's at the end mark, normalised.
        pad: token after the end mark, 0 or the end mark again. The padding carries a summary of the text too.
        attend: whether the network sees the padding ("all", as in Stable Diffusion) or only the "words".
        max_tokens: tokens per caption, with the two that mark its ends.
        width: width of the states; None: as in `model`.
        layers: transformer layers; None: as in `model`.
        heads: attention heads; None: as in `model`.
        trainable: whether the weights are to be trained.
    """

    kind: Literal["clip"] = "clip"
    model: str = "ViT-B-32"
    pretrained: str | None = None
    layer: Literal["last", "penultimate"] = "last"
    pooled: bool = False
    pad: Literal["zero", "eot"] = "zero"
    attend: Literal["all", "words"] = "all"
    max_tokens: int = 77
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    trainable: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 3:
            raise ValueError(f"max_tokens: {self.max_tokens}; at least 3, for one token and the two end marks")
        for name, value in self.shape.items():
            if value < 1:
                raise ValueError(f"{name}: {value}; at least 1")
        if self.pretrained and self.shape:
            raise ValueError(f"pretrained: '{self.pretrained}' has its own {', '.join(self.shape)}; leave them out")

    @property
    def kept(self) -> bool:
        """Whether a model keeps the weights with its own, since they are trained, or published nowhere by a tag."""
        return self.trainable or self.pretrained is None

    @property
    def shape(self) -> dict[str, int]:
        """What differs from the architecture that `model` names."""
        given = {"width": self.width, "layers": self.layers, "heads": self.heads}
        return {name: value for name, value in given.items() if value is not None}


class ClipEncoder(nn.Module):
    """Captions to conditions by CLIP's causal text transformer.

    Source: Radford et al. 2021 (arXiv:2103.00020) section 2.4; the last layer as in Rombach et al. 2022
    (arXiv:2112.10752) and Stable Diffusion 1, the penultimate one as in Stable Diffusion 2.
    """

    restores: Literal["mean", "size"] = "mean"
    pools: Literal["mean", "first"] = "first"

    def __init__(self, spec: ClipSpec):
        """Build the tower; with `spec.pretrained`, download its weights.

        Raises:
            ValueError: unknown model or tag, a model that is not a plain CLIP, a tag that belongs to the other
                activation, a shape that is not possible, or a download that failed.
        """
        super().__init__()
        text = _text_config(spec)
        self.tokenizer = ClipTokenizer()
        self.width: int = text["width"]
        self.pooled_width: int = self.width if spec.pooled else 0
        self.max_tokens = spec.max_tokens
        self.trainable = spec.trainable
        self.pad = self.tokenizer.end if spec.pad == "eot" else 0
        self.attend_all = spec.attend == "all"
        self.last = text["layers"] - 1
        self.taken = self.last - (spec.layer == "penultimate")
        self.clip = ClipTower(
            vocab=self.tokenizer.size,
            positions=spec.max_tokens,
            width=self.width,
            layers=1 + (self.last if spec.pooled else self.taken),
            heads=text["heads"],
            quick_gelu=text["quick_gelu"],
            depth=text["layers"],
        )
        if spec.pretrained:
            self.clip.load_state_dict(downloaded(spec.model, spec.pretrained, self.clip.state_dict()))
        self.words = NewWords(self.tokenizer.size)
        self.requires_grad_(spec.trainable)

    def forward(self, captions: Sequence[str]) -> Cond:
        ids, mask = self.tokenize(captions)
        device = self.clip.positional_embedding.device
        return self.encode(ids.to(device), mask.to(device))

    def encode(self, ids: Ids, mask: WordMask) -> Cond:
        """States of tokenised captions; tensors in, tensors out, so that it compiles."""
        tokens, *last = self.clip(ids, [self.taken, self.last] if self.pooled_width else [self.taken])
        pooled = None
        if self.pooled_width:
            end = mask.sum(1, keepdim=True) - 1
            pooled = last[0].take_along_dim(end.unsqueeze(-1), dim=1).squeeze(1)
        return Cond(tokens, None if self.attend_all else mask, pooled)

    def tokenize(self, captions: Sequence[str]) -> tuple[Ids, WordMask]:
        """Token ids (b, max_tokens), and which of them are not padding; what does not fit is left out.

        Raises:
            ValueError: one string instead of a list, or a text that is not Unicode.
        """
        require_captions(captions)
        room = self.max_tokens - 2
        return self.framed([self.spell(" ".join(caption.split()))[:room] for caption in captions])

    def framed(self, rows: Sequence[Sequence[int]]) -> tuple[Ids, WordMask]:
        """Ids of at most `max_tokens` - 2 tokens, with end marks and padding, and which of them are not padding."""
        start, end = self.tokenizer.start, self.tokenizer.end
        ids = torch.full((len(rows), self.max_tokens), self.pad)
        lengths = torch.zeros(len(rows), dtype=torch.long)
        for row, pieces in enumerate(rows):
            kept = torch.tensor([start, *pieces, end])
            ids[row, : len(kept)] = kept
            lengths[row] = len(kept)
        return ids, torch.arange(self.max_tokens) < lengths[:, None]

    def cut(self, caption: str) -> str:
        """The words that do not fit, as typed; empty if all do. A word of which only a part fits is cut."""
        require_captions([caption])
        room = self.max_tokens - 2
        words = caption.split()
        if len(self.spell(" ".join(words))) <= room:
            return ""
        ends = accumulate(len(self.spell(word)) for word in words)
        return " ".join(word for word, end in zip(words, ends, strict=True) if end > room)

    def spell(self, text: str) -> list[int]:
        """Ids of the tokens of a text, and of the vectors of new words."""
        return self.words.spell(text, self.tokenizer.encode)

    def table(self) -> Tensor:
        """The vocabulary's input embeddings (vocab, width)."""
        found = self.clip.token_embedding
        return (found.table if isinstance(found, Extended) else found).weight

    def teach(self, word: str, vectors: Tensor) -> None:
        """Add a word that captions may have, with its input embeddings (k, width)."""
        self.words.add(word, vectors)
        if not isinstance(self.clip.token_embedding, Extended):
            self.clip.token_embedding = Extended(self.clip.token_embedding, self.words)

    def knows(self, word: str) -> bool:
        """Whether the vocabulary has `word` as one token."""
        return len(self.tokenizer.encode(word)) == 1


def _text_config(spec: ClipSpec) -> dict[str, Any]:
    """Width, heads, layers and activation of the model, with the shape of `spec`."""
    config = architecture(spec.model)
    if config is None:
        raise ValueError(f"text.model: open_clip has no '{spec.model}'; open_clip.list_models() names them")
    text = config["text_cfg"]
    if config.keys() - PLAIN_MODEL or text.keys() - PLAIN_TEXT:
        raise ValueError(f"text.model: '{spec.model}' has no plain CLIP text tower; use one such as ViT-B-32")
    if spec.pretrained and spec.max_tokens != text["context_length"]:
        raise ValueError(f"text.max_tokens: {spec.max_tokens}; pretrained weights need {text['context_length']}")
    text = text | spec.shape | {"quick_gelu": config.get("quick_gelu", False)}
    if text["width"] % text["heads"]:
        raise ValueError(f"text.heads: {text['heads']} does not divide width {text['width']}")
    if spec.layer == "penultimate" and text["layers"] < 2:
        raise ValueError("text.layer: 'penultimate' needs at least 2 layers, and there is 1; use 'last'")
    return text
