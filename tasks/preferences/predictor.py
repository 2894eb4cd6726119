"""A light model of preferences: logistic regression on differences of hashed n-grams, lengths and overlap.

It is fitted to comparisons that were accepted and says how likely each choice of others is. Not meant to be good, but
to be honest: what it says of a comparison is calibrated on comparisons it was not fitted to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse, special

from tasks.preferences import ngrams

Floats = npt.NDArray[np.float64]
Row = Mapping[str, Any]
BUCKETS = 1 << 17
ORDERS = (1, 2, 3, 4, 5)
FOLDS = 3
STRENGTH = 0.1  # inverse of the L2 penalty
NUM_DENSE = 5
SUREST = 4.0  # largest logit: one choice in 55 may be anything


def decided(rows: Sequence[Row]) -> list[Row]:
    """The comparisons in which one reply is preferred."""
    return [row for row in rows if row["choice"] in ("a", "b")]


def labels(rows: Sequence[Row]) -> Floats:
    """1 where a is preferred, else 0."""
    return np.array([row["choice"] == "a" for row in rows], dtype=float)


def features(rows: Sequence[Row]) -> sparse.csr_matrix:
    """(rows, BUCKETS + NUM_DENSE): features of reply a less those of reply b."""
    hasher = ngrams.Hasher()
    domains = np.array([ngrams.token_hash(row["domain"]) for row in rows], dtype=np.uint64)
    sides = [hasher.ids(row[key] for row in rows) for key in ("reply_a", "reply_b")]
    columns, lines, values = [], [], []
    for order in ORDERS:
        for sign, (ids, places) in zip((1.0, -1.0), sides, strict=True):
            found, of_row = ngrams.ngrams(ids, places, order)
            hashed = [found] if order > 2 else [found, found ^ domains[of_row]]
            for each in hashed:
                columns.append((each * np.uint64(0xD6E8FEB86659FD93) >> np.uint64(47)).astype(np.int64))
                lines.append(of_row)
                values.append(np.full(len(of_row), sign))
    shape = (len(rows), BUCKETS)
    counted = sparse.coo_matrix((np.concatenate(values), (np.concatenate(lines), np.concatenate(columns))), shape)
    matrix = counted.tocsr()
    matrix.eliminate_zeros()
    matrix.data = np.clip(matrix.data, -1, 1)
    norms = np.sqrt(np.maximum(1.0, np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()))
    matrix = sparse.diags_array(3.0 / np.sqrt(norms)) @ matrix
    return sparse.hstack([matrix, sparse.csr_matrix(_dense(rows))], format="csr")


def _dense(rows: Sequence[Row]) -> Floats:
    """What a reply is like as a whole: length (log), overlap with the prompt, lines, sentences, distinct words."""
    made = np.empty((len(rows), NUM_DENSE))
    for number, row in enumerate(rows):
        asked = set(ngrams.tokens(row["prompt"][-1]["content"]))
        made[number] = np.subtract(*(_whole(row[key], asked) for key in ("reply_a", "reply_b")))
    return made


def _whole(reply: str, asked: set[str]) -> Floats:
    words = ngrams.tokens(reply)
    distinct = set(words)
    return np.array(
        [
            np.log(len(words)),
            len(distinct & asked) / len(distinct),
            np.log1p(reply.count("\n")),
            np.log1p(reply.count(".")),
            len(distinct) / len(words),
        ]
    )


@dataclass(frozen=True)
class Predictor:
    """As many models as folds; each judges what it was not fitted to."""

    weights: list[Floats]
    scale: Floats  # of a logit: (alone, times confidence)

    def probabilities(self, rows: Sequence[Row], matrix: sparse.csr_matrix) -> Floats:
        """(folds, rows): the probability that each model gives the choice which was made."""
        logits = np.stack([matrix @ weight for weight in self.weights])
        return np.asarray(special.expit(calibrated(logits, rows, self.scale) * (2 * labels(rows) - 1)))


def calibrated(logits: Floats, rows: Sequence[Row], scale: Floats) -> Floats:
    confidence = np.array([row["confidence"] for row in rows])
    return np.asarray(np.clip(logits * np.maximum(0.0, scale[0] + scale[1] * confidence), -SUREST, SUREST))


def fit(rows: Sequence[Row], matrix: sparse.csr_matrix) -> tuple[Predictor, Floats]:
    """A predictor of decided comparisons, and the probability of each one's choice by the model not fitted to it.

    Folds are drawn by prompt cluster.
    """
    from sklearn.linear_model import LogisticRegression

    wanted = labels(rows)
    fold = np.array([ngrams.token_hash(f"holds/{row['cluster']}") % FOLDS for row in rows])
    logits, weights = np.zeros(len(rows)), []
    for number in range(FOLDS):
        train = fold != number
        model = LogisticRegression(C=STRENGTH, fit_intercept=False, solver="lbfgs", max_iter=40, tol=1e-2)
        # Every other row is mirrored, so that both classes are there whatever side people prefer.
        turn = np.where(np.arange(train.sum()) % 2, -1.0, 1.0)
        model.fit(sparse.diags_array(turn) @ matrix[train], (2 * wanted[train] - 1) * turn > 0)
        weights.append(model.coef_[0])
        logits[~train] = matrix[~train] @ model.coef_[0]
    scale = _scale(logits, rows)
    signs = 2 * wanted - 1
    return Predictor(weights, scale), special.expit(calibrated(logits, rows, scale) * signs)


def _scale(logits: Floats, rows: Sequence[Row]) -> Floats:
    """The factors on the logits that make their log-loss least."""
    signs = 2 * labels(rows) - 1

    def loss(scale: Floats) -> float:
        return float(np.logaddexp(0, -signs * calibrated(logits, rows, scale)).mean())

    found = optimize.minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-7})
    return np.asarray(found.x)
