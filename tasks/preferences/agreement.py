"""How far raters agree.

Items whose votes are alike in number (two for the first reply, one for the second) are one *pattern*: statistics are
sums over patterns, so that a bootstrap over items draws how often each pattern comes, whatever the number of items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from tasks.preferences.votes import BOTH_BAD, FIRST, NUM_CLASSES, SECOND, TIE

LEVEL = 0.95  # of every interval
NUM_RESAMPLES = 1000
MIN_ITEMS = 10  # that several raters judged: below, there is an estimate but no interval
ORDERED = (FIRST, TIE, SECOND)  # the scale on which a tie is in the middle; `both_bad` has no place on it

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # how often each pattern comes [resamples, patterns] -> value [resamples]


@dataclass(frozen=True)
class Estimate:
    """A value over n items with its 95% interval; none where there are too few items."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Patterns:
    """Items by how many votes of each value they have."""

    counts: Floats  # [patterns, values]
    items: Floats  # [patterns]: how many items are so

    @property
    def num_items(self) -> int:
        return int(self.items.sum())

    def of(self, values: tuple[int, ...]) -> "Patterns":
        """The same items through some of the values, in that order; those left with fewer than two votes drop out."""
        counts = self.counts[:, list(values)]
        kept = counts.sum(1) >= 2
        return Patterns(counts[kept], self.items[kept])


def patterns(item: NDArray[np.int64], value: NDArray[np.int8]) -> Patterns:
    """Of the votes [n] on items; items with one vote say nothing of agreement and are left out."""
    if not len(item):
        return Patterns(np.zeros((0, NUM_CLASSES)), np.zeros(0))
    _, place = np.unique(item, return_inverse=True)
    counts = np.bincount(place * NUM_CLASSES + value, minlength=NUM_CLASSES * (place.max() + 1))
    counts = counts.reshape(-1, NUM_CLASSES)
    counts = counts[counts.sum(1) >= 2]
    # One number a row sorts faster than rows do.
    codes = counts @ (counts.max(initial=0) + 1) ** np.arange(NUM_CLASSES)
    _, where, items = np.unique(codes, return_index=True, return_counts=True)
    return Patterns(counts[where].astype(float), items.astype(float))


def alpha(found: Patterns, metric: Literal["nominal", "ordinal"], seed: int = 0) -> Estimate | None:
    """Krippendorff's alpha (2011, "Computing Krippendorff's alpha-reliability"): 1 - observed / expected disagreement.

    nominal: the four values are different, no more. ordinal: first < tie < second, without `both_bad`.
    None where there are no votes to compare, or all are alike.
    """
    if metric == "ordinal":
        found = found.of(ORDERED)
    num_values = found.counts.shape[1]
    votes = found.counts.sum(1)
    pairs = found.counts[:, :, None] * found.counts[:, None, :] - found.counts[:, :, None] * np.eye(num_values)
    shares = (pairs / (votes - 1)[:, None, None]).reshape(-1, num_values**2)

    def statistic(times: Floats) -> Floats:
        coincidences = (times @ shares).reshape(-1, num_values, num_values)
        totals = coincidences.sum(2)
        distances = _ordinal(totals) if metric == "ordinal" else 1 - np.eye(num_values)[None]
        observed = (coincidences * distances).sum((1, 2))
        expected = (totals[:, :, None] * totals[:, None, :] * distances).sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            values: Floats = 1 - (totals.sum(1) - 1) * observed / expected
        return values

    return estimate(found, statistic, seed)


def _ordinal(totals: Floats) -> Floats:
    """Squared distances between ranks [resamples, values, values]: all that lies between, ends counted half."""
    upto = np.cumsum(totals, 1) - totals / 2  # the middle of each value's ranks
    gaps: Floats = (upto[:, :, None] - upto[:, None, :]) ** 2
    return gaps


def raw(found: Patterns, seed: int = 0) -> Estimate | None:
    """How often two raters of an item say the same, the mean over items."""
    return estimate(found, mean_agreement(found), seed)


def mean_agreement(found: Patterns) -> Statistic:
    votes = found.counts.sum(1)
    agreed = (found.counts * (found.counts - 1)).sum(1) / (votes * (votes - 1))

    def statistic(times: Floats) -> Floats:
        values: Floats = (times @ agreed) / times.sum(1)
        return values

    return statistic


def estimate(found: Patterns, statistic: Statistic, seed: int) -> Estimate | None:
    """The statistic with the BCa interval of a bootstrap over items; None where it is not defined."""
    if not len(found.items):
        return None
    value = float(statistic(found.items[None])[0])
    if not np.isfinite(value):
        return None
    n = found.num_items
    if n < MIN_ITEMS:
        return Estimate(value, n)
    drawn = np.random.default_rng(seed).multinomial(n, found.items / n, size=NUM_RESAMPLES)
    values = statistic(drawn.astype(float))
    values = values[np.isfinite(values)]  # a resample may hold one value only
    low, high = np.quantile(values, _levels(found, statistic, value, values))
    return Estimate(value, n, float(low), float(high))


def _levels(found: Patterns, statistic: Statistic, value: float, values: Floats) -> Floats:
    """Which quantiles of the resampled `values` bound the interval.

    Bias-corrected and accelerated (Efron 1987, JASA 82; Efron and Tibshirani 1993, eq. 14.10 and 14.15), as plain
    percentiles lean where the statistic does. A bootstrap over n items is also too narrow by sqrt((n - 1) / n), and by
    z for Student's t (the expanded percentile interval of Hesterberg 2015, The American Statistician 69).
    """
    n, items = found.num_items, found.items
    reach = np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + LEVEL) / 2)
    below = float(np.mean(values < value) + np.mean(values == value) / 2)
    bias = ndtri(np.clip(below, 0.5 / len(values), 1 - 0.5 / len(values)))
    left_out = statistic(items - np.eye(len(items)))  # without one item of each pattern
    is_told = np.isfinite(left_out)
    items, left_out = items[is_told], left_out[is_told]
    off = np.average(left_out, weights=items) - left_out
    spread = float((items * off**2).sum())
    acceleration = float((items * off**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + np.array([-reach, reach])
    levels: Floats = ndtr(bias + shifted / (1 - acceleration * shifted))
    return levels


def tie_share(value: NDArray[np.int8]) -> float:
    """Ties and `both_bad` among the votes that carry a signal."""
    said = value < NUM_CLASSES
    return float(((value == TIE) | (value == BOTH_BAD)).sum() / said.sum()) if said.any() else 0.0


def clustered(values: Floats, clusters: Any) -> Estimate | None:
    """A mean whose interval takes rows of one cluster [n] as one draw (normal approximation); None without rows."""
    if not len(values):
        return None
    value = float(values.mean())
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member, values - value)
    if len(sums) < MIN_ITEMS:
        return Estimate(value, len(values))
    half = float(ndtri((1 + LEVEL) / 2) * np.sqrt(np.sum(sums**2) * len(sums) / (len(sums) - 1)) / len(values))
    return Estimate(value, len(values), value - half, value + half)
