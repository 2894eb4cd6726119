"""Texts as hashed n-grams in flat arrays: what the holds count, at microseconds a text.

A text is words and signs between a start and an end mark, so that openings and endings are n-grams, too.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Texts = Sequence[str]
MAX_TOKENS = 512  # of a text that are looked at, from its start, and as many from its end
_TOKEN = re.compile(r"\w+|[^\w\s]")
_START, _END = "\x02", "\x03"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def tokens(text: str) -> list[str]:
    """Words and signs, case kept, with the marks of start and end."""
    found = _TOKEN.findall(text)
    if len(found) > 2 * MAX_TOKENS:
        found = found[:MAX_TOKENS] + found[-MAX_TOKENS:]
    return [_START, *found, _END]


class Hasher:
    """Tokens to 64-bit hashes that are the same in every process."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def ids(self, texts: Iterable[str]) -> tuple[Hashes, Rows]:
        """The tokens of all texts one after the other, and the number of the text that each belongs to."""
        flat: list[int] = []
        sizes: list[int] = []
        known = self._known
        for text in texts:
            found = tokens(text)
            sizes.append(len(found))
            for token in found:
                value = known.get(token)
                if value is None:
                    value = known[token] = token_hash(token)
                flat.append(value)
        return np.array(flat, dtype=np.uint64), np.repeat(np.arange(len(sizes)), sizes)


def token_hash(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def ngrams(ids: Hashes, rows: Rows, order: int) -> tuple[Hashes, Rows]:
    """Hashes of all n-grams of one order (none reaches over the end of a text), and the text of each."""
    size = len(ids) - order + 1
    if size <= 0:
        return ids[:0], rows[:0]
    mixed = np.full(size, np.uint64(order), dtype=np.uint64)
    for place in range(order):
        mixed = (mixed ^ ids[place : place + size]) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    whole = rows[:size] == rows[order - 1 :]
    return mixed[whole], rows[:size][whole]


def spelled(texts: Texts, wanted: int, order: int) -> str | None:
    """The words of the n-gram with this hash, found again in the texts that hold it."""
    hasher = Hasher()
    for text in texts:
        found, _ = ngrams(*hasher.ids([text]), order)
        places = np.flatnonzero(found == np.uint64(wanted))
        if len(places):
            words = tokens(text)[places[0] : places[0] + order]
            return " ".join(word for word in words if word not in (_START, _END))
    return None
