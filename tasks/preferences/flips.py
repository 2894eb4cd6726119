"""Flipped labels in fresh comparisons, found by what accepted comparisons let expect.

A model fitted to the accepted comparisons says how likely each choice was; the residual of a likelihood-ratio test for
a share of flipped labels has mean 0 where the model is calibrated, however predictable the comparisons are. The rate
that a shard shows is held against the rate that the accepted comparisons show, which the model judged out of fold: as a
whole, and for each rater and domain. What the model is worth is the power.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.preferences import predictor
from tasks.preferences.predictor import Floats, Row, decided
from tasks.preferences.triggers import Corpus

MIN_GROUP = 30  # rows of a rater or a domain that are looked at apart
MIN_KNOWN = 100  # accepted rows of a rater or a domain that are a history of their own
TILT = 0.05  # share of flips at which the likelihood ratio is taken: bounds what one row can say
KEYS = ("rater", "domain")


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


@dataclass(frozen=True)
class Scores:
    """Of some comparisons, a value per row: residual, what one flipped label adds to it on average, prompt cluster."""

    residuals: Floats
    gains: Floats
    clusters: npt.NDArray[Any]

    def of(self, which: npt.NDArray[np.bool_]) -> "Scores":
        return Scores(self.residuals[which], self.gains[which], self.clusters[which])

    def rate(self) -> tuple[float, float]:
        """The share of flipped labels and its standard error; rows of one prompt are not independent."""
        gain = max(float(self.gains.sum()), 1e-9)
        rate = float(self.residuals.sum()) / gain
        left = self.residuals - rate * self.gains
        _, cluster = np.unique(self.clusters, return_inverse=True)
        together = float((np.bincount(cluster, left) ** 2).sum())
        return rate, float(np.sqrt(max(float(left @ left), together, 1e-12))) / gain


class Accepted:
    """Accepted comparisons, and a model of them. Fitting takes seconds; judging a shard less."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = decided(rows)
        self.corpus = Corpus(self.rows)
        matrix = predictor.features(self.rows)
        self.predictor, own = predictor.fit(self.rows, matrix)
        self.scores = _scores(self.rows, own[None])
        self.accuracy = float((own > 0.5).mean())
        self.names = {key: np.array([row[key] for row in self.rows]) for key in KEYS}

    def judge(self, rows: Sequence[Row]) -> Scores:
        return _scores(rows, self.predictor.probabilities(rows, predictor.features(rows)))

    def known(self, key: str) -> dict[str, tuple[float, float]]:
        """(rate, error) of the raters or domains with a history of their own."""
        values, counts = np.unique(self.names[key], return_counts=True)
        return {str(name): self.scores.of(self.names[key] == name).rate() for name in values[counts >= MIN_KNOWN]}


def _scores(rows: Sequence[Row], said: Floats) -> Scores:
    """said: (models, rows), the probability that each model gave the choice made."""
    clusters = np.array([row["cluster"] for row in rows])
    return Scores(residual(said).mean(axis=0), gain(said).mean(axis=0), clusters)


def residual(said: Floats) -> Floats:
    """The score of the choice made, less what the model itself expects of it."""
    return np.asarray((1 - said) * (_score(said) - _score(1 - said)))


def gain(said: Floats) -> Floats:
    """What turning a label around adds to the residual, on average over the labels that the model expects."""
    return np.asarray((2 * said - 1) * (_score(1 - said) - _score(said)))


def _score(said: Floats) -> Floats:
    """d/de log((1 - e) p + e (1 - p)) at e = TILT, for the probability p that was given to the choice made."""
    return (1 - 2 * said) / ((1 - TILT) * said + TILT * (1 - said))


def flips(shard: Sequence[Row], scores: Scores, accepted: Accepted) -> list[Flips]:
    """The estimated flips of the whole shard, then of each rater and domain of it where there are several."""
    overall, error = accepted.scores.rate()
    expected, variances, found = overall, [], []
    for key in KEYS:
        names = np.array([row[key] for row in shard])
        known = accepted.known(key)
        spread = float(np.std([rate for rate, _ in known.values()], ddof=1)) if len(known) > 1 else 0.0
        variance = 0.0
        for name, count in Counter(names.tolist()).most_common():
            mine = scores.of(names == name)
            share = float(mine.gains.sum() / max(scores.gains.sum(), 1e-9))
            # Who is known brings an own rate along; who is not may differ from the others as they do among themselves.
            rate, uncertain = known.get(name, (overall, float(np.hypot(spread, error))))
            expected += share * (rate - overall)
            variance += (share * uncertain) ** 2
            if count >= MIN_GROUP and len(set(names)) > 1:
                found.append(_group(f"{key} {name}", mine, rate, uncertain))
        variances.append(variance)
    return [_group("all", scores, expected, float(np.sqrt(max(variances)))), *found]


def _group(name: str, scores: Scores, expected: float, uncertain: float) -> Flips:
    rate, error = scores.rate()
    return Flips(name, rate - expected, float(np.hypot(error, uncertain)), len(scores.residuals))
