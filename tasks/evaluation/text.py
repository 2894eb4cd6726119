"""Monitors of reply texts: things that a policy does when it games a score."""

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")
_RUN = 8  # words in a row that nobody repeats by chance
_SHORT = 3  # fewer words than this say nothing about copying


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def echoes(prompt: str, reply: str) -> bool:
    """Whether a reply gives the prompt back: a run of 8 of its words (all, if it has fewer), or nothing else."""
    asked, said = words(prompt), words(reply)
    run = min(_RUN, len(asked))
    copied = run >= _SHORT and bool(set(_ngrams(asked, run)) & set(_ngrams(said, run)))
    only = len(said) >= _SHORT and tuple(said) in set(_ngrams(asked, len(said)))
    return copied or only


def distinct(replies: Iterable[str], n: int = 2) -> float | None:
    """Distinct word n-grams over all n-grams of the replies; None without any. Li 2016, arXiv:1510.03055.

    Falls as the number of replies grows: compare equal numbers only.
    """
    grams = [gram for reply in replies for gram in _ngrams(words(reply), n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(reply: str, n: int = 3) -> float:
    """Share of a reply's word n-grams that stood in it before; 0 for a reply too short to have two."""
    grams = _ngrams(words(reply), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] if n else []
