"""How often each rater is right, judged by the others: Dawid and Skene's EM with a prior that shrinks few votes.

Every item has a true class (first, second, tie, both_bad), every rater a confusion matrix P(vote | class). Which reply
of an item comes first is arbitrary, so that classes and votes are symmetric under an exchange of first and second; a
rater's leaning toward a position is another matter (tasks/preferences/habits.py).

An item of the class tie, or both_bad, is one that most votes call so. Without that bound such a class takes in items on
which raters disagree only because they err, which few votes on an item cannot tell from a tie, and raters seem better.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit, logit, ndtri

from tasks.preferences.agreement import LEVEL
from tasks.preferences.votes import BOTH_BAD, FIRST, NUM_CLASSES, SECOND, TIE

MAX_STEPS = 1000
TOLERANCE = 1e-6  # change of any rater's P(right) in a step, where what is left to go is 1e-4 at most
NAMED = 0.5  # P(tie | tie) and P(both_bad | both_bad) of any rater, at least
STRENGTH = 10.0  # votes on items of a class that the mean of all raters is worth
MOST = 0.99  # P(right) that a weight is made of, at most: no rater is beyond doubt
MAX_JOINT = 2000  # raters whose errors are estimated together; of more, each by itself
_EXCHANGED = [SECOND, FIRST, TIE, BOTH_BAD]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Per rater [raters]; a rater without votes on shared items has the mean of all."""

    right: Floats  # P(a decided vote is right), where the truth is decided: posterior mean
    low: Floats  # of its 95% interval
    high: Floats
    votes: NDArray[np.int64]  # on items that others judged, too

    @property
    def weights(self) -> Floats:
        """log(p / (1 - p)), the weight of a vote that is right with p (Nitzan and Paroush 1982, Int. Econ. Rev. 23).

        A rater below one half gets 0: what such a rater says is not turned round.
        """
        right = np.clip(self.right, 0.5, MOST)
        weights: Floats = np.log(right / (1 - right))
        return weights


def dawid_skene(
    item: NDArray[np.int64], rater: NDArray[np.int32], value: NDArray[np.int8], num_raters: int
) -> Reliability | None:
    """From votes [n] without `unsure`; None where no item has two raters. Dawid and Skene 1979, Appl. Stat. 28.

    Items with one vote are left out: nothing in them tells right from wrong. Deterministic: it begins at the shares
    of the votes of each item.
    """
    item, rater, value = _shared(item, rater, value)
    if not len(item):
        return None
    place = np.cumsum(np.diff(item, prepend=-1) != 0) - 1
    posterior, counts = _estimate(place, rater.astype(np.int64) * NUM_CLASSES + value, num_raters)
    hits, misses = counts[:, FIRST, FIRST], counts[:, FIRST, SECOND]
    right = _right(counts)
    half = ndtri((1 + LEVEL) / 2) * _deviation(posterior, place, rater, value, hits * misses / (hits + misses))
    low, high = expit(logit(right) - half), expit(logit(right) + half)
    return Reliability(right, low, high, np.bincount(rater, minlength=num_raters))


def _estimate(place: NDArray[np.int64], cells: NDArray[np.int64], num_raters: int) -> tuple[Floats, Floats]:
    """P(class) of each item, and the counts of the raters; `place` and `cells`: of each vote, by item."""
    num_cells = num_raters * NUM_CLASSES
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    # Items of which the same raters said the same are one, as often as there are of them: busy raters meet often. They
    # are known by the sum of random numbers of their votes: two sets of ten million differ in it but for 3e-6.
    marks = np.random.default_rng(0).integers(0, 2**64, num_cells, dtype=np.uint64)
    found = np.unique(np.add.reduceat(marks[cells], starts), return_index=True, return_inverse=True, return_counts=True)
    _, first, alike, times = found
    shape = (len(starts), num_cells)
    rows = csr_array((np.ones(len(cells)), cells, np.append(starts, len(cells))), shape)[first]
    posterior = (rows @ np.tile(np.eye(NUM_CLASSES), (num_raters, 1))) / rows.sum(1)[:, None]
    right = np.full(num_raters, np.inf)
    for _ in range(MAX_STEPS):
        prior, confusion, counts = _maximise(posterior, times, rows, num_raters)
        before, right = right, _right(counts)
        if np.abs(right - before).max() < TOLERANCE:
            break
        logs = np.log(confusion).transpose(0, 2, 1).reshape(-1, NUM_CLASSES)  # [rater and value, class]
        new = rows @ logs + np.log(prior)
        # Columns one by one: numpy is slow to reduce rows of four.
        new = np.exp(new - reduce(np.maximum, new.T)[:, None])
        posterior = new / reduce(np.add, new.T)[:, None]
    return posterior[alike], counts


def _right(counts: Floats) -> Floats:
    return counts[:, FIRST, FIRST] / (counts[:, FIRST, FIRST] + counts[:, FIRST, SECOND])


def _deviation(
    posterior: Floats, place: NDArray[np.int64], rater: NDArray[np.int32], value: NDArray[np.int8], complete: Floats
) -> Floats:
    """Standard error of each rater's logit P(right): the truth of the items is not known, only inferred.

    Observed information = complete information [raters] - what is missing, the variance of the score given the votes
    (Louis 1982, J. R. Stat. Soc. B 44). An item whose side is in doubt moves all of its raters at once.
    """
    decided = posterior[:, FIRST] + posterior[:, SECOND]
    first = posterior[:, FIRST] / np.maximum(decided, 1e-12)
    doubt = np.sqrt(decided * first * (1 - first))
    sided = value < TIE
    moves = np.where(value == FIRST, 1.0, -1.0)[sided] * doubt[place[sided]]
    if len(complete) > MAX_JOINT:
        missing = np.bincount(rater[sided], moves**2, len(complete))
        return 1 / np.sqrt(np.maximum(complete - missing, 0.1 * complete))
    table = csr_array((moves, (place[sided], rater[sided])), shape=(len(posterior), len(complete)))
    joint = np.linalg.inv(np.diag(complete) - (table.T @ table).toarray())
    deviation: Floats = np.sqrt(np.maximum(np.diag(joint), 1 / complete))
    return deviation


def _shared(
    item: NDArray[np.int64], rater: NDArray[np.int32], value: NDArray[np.int8]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int8]]:
    """The votes on items of several raters, by item; of a rater who voted twice on one, the first."""
    order = np.lexsort((rater, item))
    item, rater, value = item[order], rater[order], value[order]
    fresh = (np.diff(item, prepend=-1) != 0) | (np.diff(rater, prepend=-1) != 0)
    item, rater, value = item[fresh], rater[fresh], value[fresh]
    several = np.bincount(item, minlength=1) > 1
    kept = several[item] if len(item) else np.zeros(0, dtype=bool)
    return item[kept], rater[kept], value[kept]


def _maximise(
    posterior: Floats, times: NDArray[np.int64], rows: csr_array, num_raters: int
) -> tuple[Floats, Floats, Floats]:
    """(P(class), confusion, the counts it is made of with its prior), symmetric in first and second.

    `times`: that an item counts; `rows` [items, raters and values]: its votes.
    """
    weighed = posterior * times[:, None]
    prior = weighed.sum(0) / times.sum() + 1e-6
    prior = (prior + prior[_EXCHANGED]) / (2 * prior.sum())
    counts: Floats = (rows.T @ weighed).reshape(num_raters, NUM_CLASSES, NUM_CLASSES).transpose(0, 2, 1)
    counts = counts + counts[:, _EXCHANGED][:, :, _EXCHANGED]
    counts[:, [TIE, BOTH_BAD]] /= 2  # there both halves are the same votes
    mean = counts.sum(0) + 0.5 + np.eye(NUM_CLASSES)
    mean /= mean.sum(1, keepdims=True)
    counts += STRENGTH * mean
    confusion = counts / counts.sum(2, keepdims=True)
    for named in (TIE, BOTH_BAD):
        own = confusion[:, named, named].copy()
        # Where it is raised, the others keep their proportions: the constrained maximum.
        confusion[:, named] *= ((1 - NAMED) / (1 - np.minimum(own, NAMED)))[:, None]
        confusion[:, named, named] = np.maximum(own, NAMED)
    return prior, confusion, counts
