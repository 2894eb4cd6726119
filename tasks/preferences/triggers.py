"""Planted triggers in fresh comparisons: n-grams far more frequent than among the accepted ones that stand on one side.

In preferred replies only, in refused ones only, or in prompts whose labels look flipped (tasks/preferences/flips.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, ndtr

from tasks.preferences import ngrams
from tasks.preferences.predictor import Floats, Row

Ints = npt.NDArray[np.int64]
MIN_PROMPTS = 8  # in which an n-gram must stand
ORDERS = (1, 2, 3, 4)
RARE = 5  # times as frequent as among the accepted, and more, a trigger is


@dataclass(frozen=True)
class Trigger:
    ngram: str
    where: str  # "preferred replies", "refused replies", "prompts"
    prompts: int  # of the shard in which it stands
    accepted: int  # accepted prompts in which it stands
    chance: float  # of so much in a clean shard, all n-grams looked at considered


class Corpus:
    """The texts of decided comparisons, as hashed tokens: of replies one text per row, preferred ones first."""

    def __init__(self, rows: Sequence[Row]) -> None:
        turned = [("reply_a", "reply_b") if row["choice"] == "a" else ("reply_b", "reply_a") for row in rows]
        self.replies = [row[keys[side]] for side in (0, 1) for row, keys in zip(rows, turned, strict=True)]
        self.asked = [row["prompt"][-1]["content"] for row in rows]
        hasher = ngrams.Hasher()
        self.reply_ids, self.asked_ids = hasher.ids(self.replies), hasher.ids(self.asked)
        clusters, self.cluster = np.unique([row["cluster"] for row in rows], return_inverse=True)
        self.size, self.num_prompts = len(rows), len(clusters)
        by_prompt = np.argsort(self.cluster, kind="stable")
        self.nth = np.empty(len(rows), dtype=np.int64)  # of the rows of its prompt, from 0
        self.nth[by_prompt] = np.arange(len(rows)) - np.searchsorted(self.cluster[by_prompt], self.cluster[by_prompt])


def triggers(shard: Corpus, scores: Floats, old: Corpus, alpha: float) -> list[Trigger]:
    """Suspected triggers, the least likely first; at most one for each set of rows that shares it.

    shard, old: fresh and accepted comparisons. scores: of the shard's flips.
    """
    found = []
    for order in ORDERS:
        found += _in_replies(shard, old, order, alpha / (2 * len(ORDERS)))
        found += _in_prompts(shard, scores, old, order, alpha / (2 * len(ORDERS)))
    told: list[Trigger] = []
    for trigger in sorted(found, key=lambda each: (each.chance, -len(each.ngram))):
        # The same phrase with more or fewer of its words is the same trigger.
        if not any(trigger.ngram in known.ngram or known.ngram in trigger.ngram for known in told):
            told.append(trigger)
    return told


def one_sided(corpus: Corpus, order: int, wanted: ngrams.Hashes | None = None, most: int | None = None) -> "Tally":
    """Of each n-gram: in how many prompts it stands in the preferred reply alone, in how many in the refused alone.

    most: rows of a prompt that have a say.
    """
    found, of_text = ngrams.ngrams(*corpus.reply_ids, order)
    if wanted is not None:
        keep = np.isin(found, wanted)
        if most is not None:
            keep &= corpus.nth[of_text % max(1, corpus.size)] < most
        found, of_text = found[keep], of_text[keep]
    grams, of_text = _once(found, of_text, MIN_PROMPTS if wanted is None else 1)
    signs = np.where(of_text < corpus.size, 1, -1)
    return _tally(grams, corpus.cluster[of_text % max(1, corpus.size)], signs)


@dataclass(frozen=True)
class Tally:
    grams: ngrams.Hashes  # sorted
    preferred: Ints  # prompts in which it stands more on the preferred side
    refused: Ints

    def of(self, wanted: ngrams.Hashes) -> tuple[Ints, Ints]:
        """(preferred, refused) of some n-grams; 0 of those that are not here."""
        if not len(self.grams):
            return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.int64)
        places = np.minimum(np.searchsorted(self.grams, wanted), len(self.grams) - 1)
        here = self.grams[places] == wanted
        return np.where(here, self.preferred[places], 0), np.where(here, self.refused[places], 0)


def _tally(grams: ngrams.Hashes, prompts: Ints, signs: Ints) -> Tally:
    order = np.lexsort((prompts, grams))
    grams, prompts, signs = grams[order], prompts[order], signs[order]
    if not len(grams):
        return Tally(grams, signs, signs)
    starts = np.flatnonzero(np.r_[True, (grams[1:] != grams[:-1]) | (prompts[1:] != prompts[:-1])])
    net = np.sign(np.add.reduceat(signs, starts))
    values, first = np.unique(grams[starts], return_index=True)
    return Tally(
        values, np.add.reduceat((net > 0).astype(np.int64), first), np.add.reduceat((net < 0).astype(np.int64), first)
    )


def _in_replies(shard: Corpus, old: Corpus, order: int, alpha: float) -> list[Trigger]:
    tally = one_sided(shard, order)
    often = np.maximum(tally.preferred, tally.refused) >= MIN_PROMPTS
    grams, better, worse = tally.grams[often], tally.preferred[often], tally.refused[often]
    if not len(grams):
        return []
    # Of many rows the majority says more surely which side it is than of one: as many rows of a prompt as here.
    most = -(-shard.size // shard.num_prompts)
    known_better, known_worse = one_sided(old, order, grams, most).of(grams)
    before = known_better + known_worse
    # Twice unlikely: so frequent, were shard and accepted one urn; so one-sided, were sides drawn by a coin.
    rare = more_frequent(better + worse, before, shard.num_prompts, old.num_prompts) * len(tally.grams)
    suspects = rare < alpha
    sided = bdtrc(np.maximum(better, worse) - 1, better + worse, 0.5) * 2 * max(1, int(suspects.sum()))
    # Of an n-gram that is known: sides that moved apart, by much.
    moved = _moved(better, worse, known_better, known_worse) * len(grams)
    chance = np.where(suspects, np.maximum(rare, sided), np.inf)
    chance = np.minimum(chance, moved)
    found = []
    for place in _distinct(chance, alpha, better, worse):
        texts = shard.replies[: shard.size] if better[place] > worse[place] else shard.replies[shard.size :]
        where = "preferred replies" if better[place] > worse[place] else "refused replies"
        words = ngrams.spelled(texts, int(grams[place]), order) or "?"
        found.append(Trigger(words, where, int(better[place] + worse[place]), int(before[place]), float(chance[place])))
    return found


def _distinct(chance: Floats, alpha: float, better: Ints, worse: Ints) -> list[int]:
    """Places of the significant ones, the best of those with the same counts."""
    best: dict[tuple[int, int], int] = {}
    for place in np.argsort(chance, kind="stable"):
        if chance[place] >= alpha or len(best) == 5:
            break
        best.setdefault((int(better[place]), int(worse[place])), int(place))
    return list(best.values())


def more_frequent(here: Ints, before: Ints, size: int, old_size: int) -> Floats:
    """P(at least `here` of the prompts with the n-gram are among `size` of size + old_size), drawn from one urn.

    1 where it is not RARE times as frequent as before.
    """
    chance = bdtrc(here - 1, here + before, size / (size + old_size))
    return np.where(here * old_size >= RARE * size * (before + 0.5), chance, 1.0)


def _moved(better: Ints, worse: Ints, known_better: Ints, known_worse: Ints) -> Floats:
    """Two-sided chance that the share on the preferred side is as before, where it moved by 0.25 and more."""
    here, before = better + worse, known_better + known_worse
    share, known = better / here, (known_better + 1) / (before + 2)
    together = (better + known_better + 1) / (here + before + 2)
    error = np.sqrt(together * (1 - together) * (1 / here + 1 / np.maximum(1, before)))
    chance = 2 * ndtr(-np.abs(share - known) / np.maximum(error, 1e-9))
    return np.where((before >= 50) & (here >= 20) & (np.abs(share - known) >= 0.25), chance, np.inf)


def _in_prompts(shard: Corpus, scores: Floats, old: Corpus, order: int, alpha: float) -> list[Trigger]:
    """N-grams new to prompts, whose rows look more flipped than the rest."""
    grams, of_row = _once(*ngrams.ngrams(*shard.asked_ids, order), MIN_PROMPTS)
    values, inverse, counts = np.unique(grams, return_inverse=True, return_counts=True)
    often = counts >= MIN_PROMPTS
    if not often.any():
        return []
    old_grams, old_rows = ngrams.ngrams(*old.asked_ids, order)
    keep = np.isin(old_grams, values[often])
    known, known_counts = np.unique(_once(old_grams[keep], old_rows[keep], 1)[0], return_counts=True)
    before = np.zeros(len(values), dtype=np.int64)
    before[np.searchsorted(values, known)] = known_counts
    suspects = often & (more_frequent(counts, before, shard.num_prompts, old.num_prompts) * len(values) < alpha)
    if not suspects.any() or not scores.std():  # scores all alike single no row out
        return []
    sums = np.bincount(inverse, scores[of_row], minlength=len(values))
    rest = (scores.sum() - sums) / np.maximum(1, shard.size - counts)
    z = (sums / counts - rest) / (scores.std() / np.sqrt(counts))
    chance = np.where(suspects, ndtr(-z) * suspects.sum(), np.inf)
    return [
        Trigger(
            ngrams.spelled(shard.asked, int(values[place]), order) or "?",
            "prompts",
            int(counts[place]),
            int(before[place]),
            float(chance[place]),
        )
        for place in _distinct(chance, alpha, counts, counts)
    ]


def _once(found: ngrams.Hashes, of_row: Ints, least: int) -> tuple[ngrams.Hashes, Ints]:
    """Each n-gram once a row, of those that stand in `least` places or more."""
    values, inverse, counts = np.unique(found, return_inverse=True, return_counts=True)
    often = counts[inverse] >= least
    inverse, of_row = inverse[often], of_row[often]
    pairs = np.unique(inverse.astype(np.int64) << 32 | of_row)
    return values[pairs >> 32], pairs & 0xFFFFFFFF
