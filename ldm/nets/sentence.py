"""A frozen sentence encoder: a small BERT, a word-piece vocabulary, and their folder of files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.core.bundle import BundleError
from ldm.core.config_io import from_dict
from ldm.nets.cond import Cond
from ldm.nets.words import NewWords

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
MARKS = PAD, START, END = "[PAD]", "[CLS]", "[SEP]"

Ids = Int[Tensor, "b n"]
WordMask = Bool[Tensor, "b n"]


@dataclass(frozen=True, kw_only=True)
class SentenceSpec:
    """A frozen sentence encoder from a folder.

    Attributes:
        bundle: folder with `model.safetensors`, `config.json` and `tokenizer.json`.
        max_tokens: word pieces per caption, with the two that mark its ends; every caption is padded to this length,
            so that shapes never change.
    """

    kind: Literal["sentence"] = "sentence"
    bundle: str = "models/minilm"
    max_tokens: int = 24

    def __post_init__(self) -> None:
        if self.max_tokens < 3:
            raise ValueError(f"max_tokens: {self.max_tokens}; at least 3, for one word piece and the two end marks")


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Shape of the network; `config.json` of the folder.

    Attributes:
        layers: transformer layers.
        width: width of the states.
        heads: attention heads, a divisor of `width`.
        feed_forward: width inside the feed-forward layers.
        vocab: word pieces.
        max_positions: longest text, word pieces.
        eps: added to the variance in the layer normalisations.
        token_scale: factor on the last states that gives them unit root mean square over captions.
    """

    layers: int
    width: int
    heads: int
    feed_forward: int
    vocab: int
    max_positions: int
    eps: float
    token_scale: float

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.feed_forward, self.vocab, self.max_positions) < 1:
            raise ValueError(f"every size must be at least 1; got {self}")
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")


class BertLayer(nn.Module):
    """Self-attention, then a feed-forward layer, each added to its input and normalised after."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.out_norm = nn.LayerNorm(config.width, config.eps)
        self.up = nn.Linear(config.width, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.width)
        self.down_norm = nn.LayerNorm(config.width, config.eps)

    def forward(self, x: Float[Tensor, "b n d"], mask: WordMask) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (b, heads, n, d / heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self.out_norm(x + self.out(attended.transpose(1, 2).flatten(2)))
        return self.down_norm(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """Embedded word pieces to states, both directions of the text seen at once. Its weights come from a file.

    Source: Devlin et al. 2018 (arXiv:1810.04805) section 3; the layer is that of Vaswani et al. 2017
    (arXiv:1706.03762). One text at a time, so the table of positions includes the embedding of "first text".
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        # Not nn.Embedding: its random numbers, which a file replaces, take over a second on the meta device.
        self.pieces = nn.Parameter(torch.empty(config.vocab, config.width))
        self.positions = nn.Parameter(torch.empty(config.max_positions, config.width))
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))

    def forward(self, embedded: Float[Tensor, "b n d"], mask: WordMask) -> Float[Tensor, "b n d"]:
        x = self.norm(embedded + self.positions[: embedded.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        return x


class SentenceEncoder(nn.Module):
    """Captions to conditions by a frozen BERT that was trained to place sentences of one meaning close together.

    The token states are the last layer's times the constant `token_scale`, zero at padding. The pooled state is the
    mean of the last layer's states over the words and end marks, at length sqrt(width): normalised as the encoder's
    authors do (cosine similarity is the dot product over `width`), with entries of unit scale as a network expects.

    Source: Reimers and Gurevych 2019 (arXiv:1908.10084) section 3, mean pooling.
    """

    trainable: bool = False  # but for new words
    restores: Literal["mean", "size"] = "size"
    pools: Literal["mean", "first"] = "mean"

    def __init__(self, spec: SentenceSpec, root: Path = Path()):
        """Read the folder.

        Args:
            spec: which folder.
            root: where a relative `spec.bundle` starts.

        Raises:
            BundleError: a file is missing, damaged or of another kind.
            ValueError: `max_tokens` is more than the network has positions.
        """
        super().__init__()
        folder = root / spec.bundle
        config = _read_config(folder / CONFIG)
        if spec.max_tokens > config.max_positions:
            raise ValueError(
                f"text.max_tokens: {spec.max_tokens} is more than the {config.max_positions} of {folder / CONFIG}"
            )
        self.max_tokens = spec.max_tokens
        self.width = config.width
        self.pooled_width = config.width
        self.token_scale = config.token_scale
        self.tokenizer, self.marks = _read_tokenizer(folder / TOKENIZER, config.vocab)
        self.bert = _read_bert(folder / WEIGHTS, config)
        self.words = NewWords(config.vocab)
        self.requires_grad_(False)

    def forward(self, captions: Sequence[str]) -> Cond:
        ids, mask = self.tokenize(captions)
        device = self.bert.pieces.device
        return self.encode(ids.to(device), mask.to(device))

    def encode(self, ids: Ids, mask: WordMask) -> Cond:
        """States of tokenised captions; tensors in, tensors out, so that it compiles. In float32 under autocast too."""
        words = mask.unsqueeze(-1)
        with torch.autocast(ids.device.type, enabled=False):
            states = self.bert(self.words.embed(ids, self._look_up), mask) * words
        mean = states.sum(1) / words.sum(1)
        return Cond(states * self.token_scale, mask, F.normalize(mean, dim=-1) * self.width**0.5)

    def tokenize(self, captions: Sequence[str]) -> tuple[Ids, WordMask]:
        """Word-piece ids (b, max_tokens), and which of them are not padding; what does not fit is left out.

        Raises:
            ValueError: one string instead of a list, or a text that is not Unicode.
        """
        require_captions(captions)
        return self.framed([self.spell(caption)[: self.max_tokens - 2] for caption in captions])

    def framed(self, rows: Sequence[Sequence[int]]) -> tuple[Ids, WordMask]:
        """Ids of at most `max_tokens` - 2 pieces, with end marks and padding, and which of them are not padding."""
        ids = torch.full((len(rows), self.max_tokens), self.marks[PAD])
        lengths = torch.zeros(len(rows), dtype=torch.long)
        for row, pieces in enumerate(rows):
            kept = torch.tensor([self.marks[START], *pieces, self.marks[END]])
            ids[row, : len(kept)] = kept
            lengths[row] = len(kept)
        return ids, torch.arange(self.max_tokens) < lengths[:, None]

    def cut(self, caption: str) -> str:
        """The words that do not fit, as typed; empty if all do. A word of which only a part fits is cut."""
        require_captions([caption])
        pieces = self.tokenizer.encode(caption, add_special_tokens=False)
        room = self.max_tokens - 2
        if len(self.spell(caption)) <= room:
            return ""
        if self.words.ids:
            return self.words.left_out(caption, room, self.spell)
        first = pieces.word_ids.index(pieces.word_ids[room])
        return " ".join(caption[pieces.offsets[first][0] :].split())

    def spell(self, text: str) -> list[int]:
        """Ids of the word pieces of a text, and of the vectors of new words."""
        return self.words.spell(text, lambda part: self.tokenizer.encode(part, add_special_tokens=False).ids)

    def table(self) -> Tensor:
        """The vocabulary's input embeddings (vocab, width)."""
        return self.bert.pieces

    def teach(self, word: str, vectors: Tensor) -> None:
        """Add a word that captions may have, with its input embeddings (k, width)."""
        self.words.add(word, vectors)

    def knows(self, word: str) -> bool:
        """Whether the vocabulary has `word` as one piece."""
        ids = self.tokenizer.encode(word, add_special_tokens=False).tokens
        return len(ids) == 1 and ids[0] != "[UNK]"

    def _look_up(self, ids: Ids) -> Float[Tensor, "b n d"]:
        return F.embedding(ids, self.bert.pieces)


def require_captions(captions: Sequence[str]) -> None:
    """Refuse what no tokenizer can read.

    Raises:
        ValueError: one string instead of a list, or a text that is not Unicode (a lone surrogate).
    """
    if isinstance(captions, str):
        raise ValueError(f"captions: expected a list of texts, got the one text {captions[:40]!r}; put it in a list")
    for caption in captions:
        try:
            caption.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"caption {caption[:40]!r}: character {error.start} is not valid Unicode") from error


def _read_config(path: Path) -> BertConfig:
    return from_dict(BertConfig, _read_json(path), str(path))


def _read_json(path: Path) -> Mapping[str, Any]:
    _require_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: not a JSON file ({error})") from error


def _read_tokenizer(path: Path, vocab: int) -> tuple[Any, dict[str, int]]:
    """The vocabulary (`tokenizers.Tokenizer`), which neither cuts nor pads, and the ids of its marks."""
    from tokenizers import Tokenizer

    _require_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{path}: not a tokenizer file ({error})") from error
    if tokenizer.get_vocab_size() != vocab:
        raise BundleError(f"{path}: {tokenizer.get_vocab_size()} word pieces, but the network has {vocab}")
    marks = {mark: id_ for mark in MARKS if (id_ := tokenizer.token_to_id(mark)) is not None}
    if len(marks) < len(MARKS):
        raise BundleError(f"{path}: not a BERT vocabulary; it lacks one of {', '.join(MARKS)}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, marks


def _read_bert(path: Path, config: BertConfig) -> Bert:
    _require_file(path)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise BundleError(f"{path}: truncated or not a safetensors file ({error})") from error
    with torch.device("meta"):  # no memory and no random numbers for what the file replaces
        bert = Bert(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in bert.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        name = min(name for name, _ in wanted.items() ^ found.items())
        shapes = f"shape {found.get(name, 'absent')}, expected {wanted.get(name, 'absent')}"
        raise BundleError(f"{path}: not the weights that {CONFIG} describes: tensor '{name}' has {shapes}")
    bert.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return bert


def _require_file(path: Path) -> None:
    if not path.parent.is_dir():
        raise BundleError(f"{path.parent}: no such folder; a sentence encoder is {WEIGHTS}, {CONFIG} and {TOKENIZER}")
    if not path.is_file():
        raise BundleError(f"{path}: no such file; a sentence encoder is {WEIGHTS}, {CONFIG} and {TOKENIZER}")
