"""Flipped labels in fresh comparisons, found by what accepted comparisons let expect.

Every choice gets the score of a likelihood-ratio test for a share of flipped labels, by a model fitted to the accepted
comparisons; the mean of the shard is held against the mean of the accepted ones, which the model judged out of fold: as
a whole, and for each rater and domain. Where labels are clean the two are samples of one distribution, whatever the
model is worth; its worth is the power.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.preferences import predictor
from tasks.preferences.predictor import Floats, Row, decided
from tasks.preferences.triggers import Corpus

MIN_GROUP = 30  # rows of a rater or a domain that are looked at apart
MIN_KNOWN = 100  # accepted rows of a rater that are a history of their own
TILT = 0.05  # share of flips at which the likelihood ratio is taken: bounds what one row can say


@dataclass(frozen=True)
class Flips:
    """A share of flipped labels more than among the accepted comparisons, estimated for some rows of a shard."""

    group: str  # "all", "rater ann", "domain howto"
    rate: float
    error: float  # standard error of the rate
    rows: int

    @property
    def z(self) -> float:
        return self.rate / self.error


class Accepted:
    """Accepted comparisons, and a model of them. Fitting takes seconds; judging a shard less."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = decided(rows)
        self.corpus = Corpus(self.rows)
        matrix = predictor.features(self.rows)
        self.predictor, own = predictor.fit(self.rows, matrix)
        self.scores = score(own)
        # What turning a label around adds to its score, on average: the unit in which flips are counted.
        self.gain = float(
            (own * (score(1 - own) - score(own))).mean() + ((1 - own) * (score(own) - score(1 - own))).mean()
        )
        self.accuracy = float((own > 0.5).mean())

    def flip_scores(self, rows: Sequence[Row]) -> Floats:
        """A score per decided row, of mean 0 less the accepted mean where nothing was flipped."""
        return np.asarray(score(self.predictor.probabilities(rows, predictor.features(rows))).mean(axis=0))


def score(said: Floats) -> Floats:
    """d/de log((1 - e) p + e (1 - p)) at e = TILT, for the probability p that was given to the choice made."""
    return (1 - 2 * said) / ((1 - TILT) * said + TILT * (1 - said))


def flips(shard: Sequence[Row], scores: Floats, accepted: Accepted) -> list[Flips]:
    """The estimated flips of the whole shard, then of each rater and domain of it."""
    found = [_flips("all", shard, scores, accepted.rows, accepted.scores, accepted.gain)]
    for key in ("rater", "domain"):
        names, old = (np.array([row[key] for row in rows]) for rows in (shard, accepted.rows))
        values, counts = np.unique(names, return_counts=True)
        if len(values) == 1:
            continue
        spread = _spread(old, accepted) if key == "rater" else 0.0
        for name in values[counts >= MIN_GROUP]:
            mine, before = names == name, old == name
            known = before.sum() >= MIN_KNOWN
            if not known:
                before = np.ones(len(old), dtype=bool)
            rows = [row for row, one in zip(shard, mine, strict=True) if one]
            theirs = [row for row, one in zip(accepted.rows, before, strict=True) if one]
            one = _flips(f"{key} {name}", rows, scores[mine], theirs, accepted.scores[before], accepted.gain)
            error = one.error if known else float(np.hypot(one.error, spread))
            found.append(Flips(one.group, one.rate, error, one.rows))
    return found


def _flips(
    group: str, rows: Sequence[Row], scores: Floats, old: Sequence[Row], old_scores: Floats, gain: float
) -> Flips:
    variance = _variance(rows, scores) + _variance(old, old_scores)
    return Flips(group, float(scores.mean() - old_scores.mean()) / gain, float(np.sqrt(variance)) / gain, len(rows))


def _variance(rows: Sequence[Row], scores: Floats) -> float:
    """Of the mean; rows of one prompt are not independent of each other."""
    _, cluster = np.unique([row["cluster"] for row in rows], return_inverse=True)
    centred = scores - scores.mean()
    independent = float(centred @ centred)
    together = float((np.bincount(cluster, centred) ** 2).sum())
    return max(independent, together, 1e-12) / len(rows) ** 2


def _spread(names: npt.NDArray[Any], accepted: Accepted) -> float:
    """How far accepted raters differ in their rate of flips: a standard deviation, in rates."""
    values, counts = np.unique(names, return_counts=True)
    means = np.array([accepted.scores[names == name].mean() for name in values[counts >= MIN_KNOWN]])
    return float(means.std(ddof=1)) / accepted.gain if len(means) > 1 else 0.0
