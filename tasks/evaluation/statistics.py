"""Intervals that respect what is independent: whole prompts (clusters), not rows.

Replies to one prompt share its difficulty, so rows of one cluster are resampled together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

LEVEL = 0.95  # of every interval in this package
_CELLS = 4_000_000  # resampled cluster indices held at once (32 MB)


@dataclass(frozen=True)
class Interval:
    """A mean over `n` rows with its 95% interval."""

    value: float
    n: int
    low: float
    high: float


def mean(values: ArrayLike, clusters: Sequence[Any], *, seed: int, num_resamples: int) -> Interval | None:
    """Mean of `values` [n] with the percentile interval of a cluster bootstrap; None where there is no interval.

    There is none without rows, or with one cluster only: nothing then says how much clusters differ.
    Each resample draws as many clusters as there are, with replacement, and keeps all their rows.
    """
    array = np.asarray(values, dtype=float)
    _, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if len(array) != len(member):
        raise ValueError(f"{len(array)} values for {len(member)} clusters; they must be as many")
    num_clusters = int(member.max()) + 1 if len(member) else 0
    if num_clusters < 2:
        return None
    means = _resampled_means(array, member, num_clusters, seed, num_resamples)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(array.mean()), len(array), float(low), float(high))


def share(values: ArrayLike, clusters: Sequence[Any], *, seed: int, num_resamples: int) -> Interval | None:
    """`mean` of values in 0..1. Where the bootstrap has no width, Wilson's interval over the clusters stands in.

    All rows alike (0 of 40 refused) make every resample alike; that is no certainty.
    """
    array = np.asarray(values, dtype=float)
    if not len(array):
        return None
    assert np.all((array >= 0) & (array <= 1)), "a share is a mean of values in 0..1"
    interval = mean(array, clusters, seed=seed, num_resamples=num_resamples)
    if interval is not None and interval.high > interval.low:
        return interval
    value = float(array.mean())
    low, high = wilson(value, len(set(clusters)))
    return Interval(value, len(array), low, high)


def wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share `value` among `n` independent rows. Wilson 1927, JASA 22."""
    z2 = float(ndtri((1 + LEVEL) / 2)) ** 2
    centre = value + z2 / (2 * n)
    half = float(np.sqrt(z2 * (value * (1 - value) + z2 / (4 * n)) / n))
    scale = 1 + z2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _resampled_means(
    values: NDArray[np.float64], member: NDArray[np.intp], num_clusters: int, seed: int, num_resamples: int
) -> NDArray[np.float64]:
    """Means of `num_resamples` bootstrap samples, each a row of multinomial counts of the clusters."""
    sums = np.bincount(member, weights=values, minlength=num_clusters)
    sizes = np.bincount(member, minlength=num_clusters).astype(float)
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // num_clusters)
    pieces = []
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        drawn = rng.integers(0, num_clusters, size=(size, num_clusters))
        drawn += np.arange(size)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters)
        # einsum, not BLAS: its sums do not depend on the number of threads.
        pieces.append(np.einsum("rc,c->r", counts, sums) / np.einsum("rc,c->r", counts, sizes))
    return np.concatenate(pieces)
