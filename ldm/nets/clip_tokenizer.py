"""CLIP's tokenizer: cleaned lower-case text to pieces of words, by byte pairs merged in the order they were learned."""

import gzip
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heapify, heappop, heappush

from ldm.nets.clip_package import data_file

FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48_894  # of the file's 262,144: with 256 bytes, each inside a word or at its end, and two marks 49,408 pieces
END_OF_WORD = "</w>"
MARKS = "<start_of_text>", "<end_of_text>"
# A mark itself, the ends of English words, letters, one digit, other signs.
WORDS = "|".join([*MARKS, r"'(?:s|t|re|ve|m|ll|d)", r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+"])

Pair = tuple[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """What CLIP's tokenizer learned.

    Attributes:
        ids: of every piece. Its letters stand for bytes (`byte_letters`); the last piece of a word ends in "</w>".
        ranks: of every pair of pieces that may merge, from 0, in the order they were learned.
    """

    ids: Mapping[str, int]
    ranks: Mapping[Pair, int]


@cache
def vocabulary() -> Vocabulary:
    """CLIP's vocabulary.

    Raises:
        ValueError: the package that carries it is not there.
    """
    lines = gzip.decompress(data_file(FILE).read_bytes()).decode().split("\n", MERGES + 1)[1:-1]
    merges = [(first, second) for first, second in map(str.split, lines)]
    letters = byte_letters().values()
    pieces = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), *MARKS]
    return Vocabulary({piece: i for i, piece in enumerate(pieces)}, {pair: i for i, pair in enumerate(merges)})


@cache
def byte_letters() -> Mapping[int, str]:
    """A printable letter for each of the 256 bytes, in the order of their ids: Latin-1's own, then others.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(own))
    letters = map(chr, [*own, *range(256, 256 + len(others))])
    return dict(zip([*own, *others], letters, strict=True))


def cleaned(text: str) -> str:
    """Text as CLIP was trained to read it: mended by ftfy, HTML entities resolved twice, single spaces, lower case."""
    if not text.isascii() or not text.isprintable() or "&" in text:  # in other text there is nothing to mend
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def merged(pieces: Sequence[str], ranks: Mapping[Pair, int]) -> list[str]:
    """Pieces after all merges: while neighbours may merge, the pair that was learned first does, leftmost first.

    Source: Sennrich et al. 2016 (arXiv:1508.07909) section 3.2.
    """
    held, count = list(pieces), len(pieces)
    before, after = [i - 1 for i in range(count)], [i + 1 for i in range(count)]
    waiting = [(ranks[pair], i, pair) for i, pair in enumerate(zip(held, held[1:], strict=False)) if pair in ranks]
    heapify(waiting)
    while waiting:
        _, left, pair = heappop(waiting)
        right = after[left]
        if right == count or (held[left], held[right]) != pair:
            continue  # one of the two has merged with another meanwhile
        held[left], held[right] = "".join(pair), ""
        after[left] = following = after[right]
        if following < count:
            before[following] = left
        for i, j in ((before[left], left), (left, following)):
            if i >= 0 and j < count and (held[i], held[j]) in ranks:
                heappush(waiting, (ranks[held[i], held[j]], i, (held[i], held[j])))
    return [piece for piece in held if piece]


class ClipTokenizer:
    """Texts to ids of CLIP's vocabulary.

    Attributes:
        start: id of the mark before a text.
        end: id of the mark after it.
        size: number of ids.
    """

    def __init__(self) -> None:
        """Read the vocabulary.

        Raises:
            ValueError: the package that carries it is not there.
        """
        import regex

        self.learned = vocabulary()
        self.size = len(self.learned.ids)
        self.start, self.end = (self.learned.ids[mark] for mark in MARKS)
        self.words = regex.compile(WORDS, regex.IGNORECASE)

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of a text, however long, without marks; one that is typed in the text is read as a mark."""
        pieces = (piece for word in self.words.findall(cleaned(text)) for piece in self._pieces(word))
        return [self.learned.ids[piece] for piece in pieces]

    def _pieces(self, word: str) -> list[str]:
        if word in MARKS:
            return [word]
        letters = [byte_letters()[byte] for byte in word.encode()]
        return merged([*letters[:-1], letters[-1] + END_OF_WORD], self.learned.ranks)
