"""Texts as sets of hashed shingles, many at once.

A text of many words is the set of its word trigrams, a short one that of its character 5-grams; in between it is
both, so that no two texts of nearly one length are beyond comparison. Long runs of words are 13-grams.
"""

import hashlib
import re
import string
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

WORDS_FROM = 24  # words from which a text has trigrams of words
CHARACTERS_TO = 28  # words up to which it has 5-grams of characters
RUN = 13  # words of a long run: Brown 2020, arXiv:2005.14165, appendix C
_VOCABULARY = 1 << 18  # words whose hash is remembered

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Int = npt.NDArray[np.int64]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation + "‘’“”…–—")
_ASCII_PUNCTUATION = string.punctuation.encode()
_NUMBER = re.compile(r"\d+")
_CLOSING = " .!?。"
_UNSPACED = re.compile("([\u2e80-\ud7ff\uf900-\ufaff])")  # scripts without spaces: every character is a word


class _Vocabulary(dict[str, int]):
    def __missing__(self, word: str) -> int:
        if len(self) >= _VOCABULARY:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        has_number = _NUMBER.search(word) is not None
        value = self[word] = int.from_bytes(digest, "little") >> 1 << 1 | has_number
        return value


_HASHES = _Vocabulary()


@dataclass(frozen=True)
class Shingles:
    """Sets of shingles of T texts. The lowest bit of a hash says what it is of: 0 characters, 1 words."""

    values: U32  # of all texts, one after the other; each once per text
    starts: Int  # (T + 1) of a text in `values`
    views: Int  # (V + 1) starts of the views: the sets of one kind of one text
    view_text: Int  # (V) the text of a view
    has_numbers: npt.NDArray[np.bool_]  # (T)
    runs: U32  # hashes of the 13-grams of words of all texts, each once per text, smallest first
    run_starts: Int  # (T + 1) of a text in `runs`

    @property
    def run_text(self) -> Int:
        """The text of each run."""
        return np.repeat(np.arange(len(self.run_starts) - 1), np.diff(self.run_starts))

    def of(self, text: int) -> U32:
        return self.values[self.starts[text] : self.starts[text + 1]]

    def only(self, texts: Int) -> "Shingles":
        """Of some of the texts, in this order: what `shingle` makes of those."""
        lengths = np.diff(self.views)
        of_text = np.searchsorted(self.view_text, np.arange(len(self.starts))).astype(np.int64)
        views, view_starts = picked(np.arange(len(self.view_text)), of_text, texts)
        values, starts = picked(self.values, self.starts, texts)
        runs, run_starts = picked(self.runs, self.run_starts, texts)
        return Shingles(
            values=values,
            starts=starts,
            views=_starts(lengths[views]),
            view_text=np.repeat(np.arange(len(texts)), np.diff(view_starts)),
            has_numbers=self.has_numbers[texts],
            runs=runs,
            run_starts=run_starts,
        )


def shingle(folded: Sequence[str]) -> Shingles:
    """The shingles of texts, which are folded."""
    spoken = [words(text) for text in folded]
    counts = np.array([len(found) for found in spoken], dtype=np.int64)
    flat = np.array(list(map(_HASHES.__getitem__, chain.from_iterable(spoken))), dtype=np.uint64)
    ends = np.cumsum(counts)
    trigrams, trigram_text = _word_grams(flat, ends - counts, ends, np.flatnonzero(counts >= WORDS_FROM), (0, 1, 2))
    runs, run_text = _word_grams(flat, ends - counts, ends, np.flatnonzero(counts >= RUN), tuple(range(RUN)))
    short = np.flatnonzero(counts <= CHARACTERS_TO)
    characters, character_text = _character_grams([folded[i] for i in short.tolist()], short)
    values = np.concatenate([(characters >> np.uint64(32)) & ~np.uint64(1), (trigrams >> np.uint64(32)) | np.uint64(1)])
    texts = np.concatenate([character_text, trigram_text]).astype(np.uint64)
    keys = _distinct((texts << np.uint64(33)) | ((values & np.uint64(1)) << np.uint64(32)) | values)
    view = keys >> np.uint64(32)
    first = np.flatnonzero(np.diff(view, prepend=np.uint64(2**40)))
    run_keys = _distinct((run_text.astype(np.uint64) << np.uint64(32)) | (runs >> np.uint64(32)))
    return Shingles(
        values=keys.astype(np.uint32),
        starts=np.searchsorted(keys >> np.uint64(33), np.arange(len(folded) + 1)).astype(np.int64),
        views=np.append(first, len(keys)).astype(np.int64),
        has_numbers=np.bincount(np.repeat(np.arange(len(counts)), counts), flat & np.uint64(1), len(counts)) > 0,
        view_text=(view[first] >> np.uint64(1)).astype(np.int64),
        runs=run_keys.astype(np.uint32),
        run_starts=np.searchsorted(run_keys >> np.uint64(32), np.arange(len(folded) + 1)).astype(np.int64),
    )


def picked(values: npt.NDArray[Any], starts: Int, which: Int) -> tuple[npt.NDArray[Any], Int]:
    """(values, starts) of some of the sets that lie one after the other in `values`."""
    lengths = starts[which + 1] - starts[which]
    ends = _starts(lengths)
    within = np.arange(int(ends[-1])) - np.repeat(ends[:-1], lengths)
    return values[np.repeat(starts[which], lengths) + within], ends


def _starts(lengths: Int) -> Int:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def words(folded: str) -> list[str]:
    """The words of a folded text, without punctuation."""
    if folded.isascii():  # bytes lose characters several times faster
        return folded.encode().translate(None, _ASCII_PUNCTUATION).decode().split()
    return _UNSPACED.sub(r" \1 ", folded).translate(_NO_PUNCTUATION).split()


def similarity(one: U32, other: U32) -> float:
    """Jaccard similarity of two texts' shingles: the larger one, where both have words and characters."""
    best = 0.0
    for kind in (0, 1):
        a, b = one[(one & 1) == kind], other[(other & 1) == kind]
        if len(a) and len(b):
            shared = _num_shared(a, b)
            best = max(best, shared / (len(a) + len(b) - shared))
    return best


def containment(part: U32, whole: U32) -> float:
    """The share of one text's word trigrams that another holds; 0 where it has none."""
    part, whole = part[(part & 1) == 1], whole[(whole & 1) == 1]
    return _num_shared(part, whole) / len(part) if len(part) and len(whole) else 0.0


def _num_shared(one: U32, other: U32) -> int:
    """Of two sets in order, neither empty."""
    where = np.minimum(np.searchsorted(other, one), len(other) - 1)
    return int((other[where] == one).sum())


def text_hash(folded: str) -> int:
    """64 bits of a text: two of ten million differ in them but for a chance of 3e-6."""
    return int.from_bytes(hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def numbers_hash(folded: str) -> int:
    """32 bits of the numbers in a text, in order."""
    return zlib.crc32(" ".join(_NUMBER.findall(folded)).encode())


def mix(values: Any) -> U64:
    """A permutation of 64 bits that leaves no pattern (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        z = np.asarray(values, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _distinct(values: U64) -> U64:
    """np.unique, which is slower here: it hashes first."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def _grams(flat: U64, where: Int, offsets: Sequence[int]) -> U64:
    """Hashes of what stands at `where` + each offset, in this order."""
    total = np.zeros(len(where), dtype=np.uint64)
    factor = 1
    with np.errstate(over="ignore"):
        for offset in offsets:
            total += flat[where + offset] * np.uint64(factor)
            factor = factor * 0x5851F42D4C957F2D % 2**64
    return mix(total)


def _word_grams(flat: U64, starts: Int, ends: Int, texts: Int, offsets: tuple[int, ...]) -> tuple[U64, Int]:
    """Hashes of the runs of len(offsets) words of some texts, and the text of each."""
    where, text = _positions(starts[texts], ends[texts] - len(offsets) + 1)
    return _grams(flat, where, offsets), texts[text]


def _character_grams(folded: list[str], texts: Int) -> tuple[U64, Int]:
    # The ends of a text count ("item 1" is not within "item 10"), but not how its last sentence is closed.
    padded = [f"\x02{text.rstrip(_CLOSING)}\x03".ljust(5, "\0") for text in folded]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    ends = np.cumsum(lengths)
    where, text = _positions(ends - lengths, ends - 4)
    return _grams(codes, where, range(5)), texts[text]


def _positions(starts: Int, ends: Int) -> tuple[Int, Int]:
    """Every position from a start to before its end, and which of them it belongs to."""
    counts = ends - starts
    owner = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return starts[owner] + within, owner
