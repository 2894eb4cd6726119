"""Who wins: pair accuracy of a scorer, its three AUCs by name, and win rates. Equal scores count one half."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Scores closer than this are equal: the same reply in another batch differs by rounding only.
TIE = 1e-4


def preference(margins: ArrayLike, eps: float = TIE) -> NDArray[np.float64]:
    """1 where a margin (score of a - score of b) says a, 0 where b, 0.5 within `eps`."""
    array = np.asarray(margins, dtype=float)
    return np.where(np.abs(array) <= eps, 0.5, (array > 0).astype(float))


def agreement(margins: ArrayLike, labels: ArrayLike, eps: float = TIE) -> NDArray[np.float64]:
    """How far each margin agrees with its label (P(a preferred): 1, 0, 0.5): 1, 0 or 0.5, per pair [n].

    A tie label is worth 0.5 whatever the margin, and so is a tied margin whatever the label; the mean is
    the pair accuracy.
    """
    said, truth = preference(margins, eps), np.asarray(labels, dtype=float)
    agreed: NDArray[np.float64] = said * truth + (1 - said) * (1 - truth)
    return agreed


def pair_accuracy(margins: ArrayLike, labels: ArrayLike, eps: float = TIE) -> float:
    return float(agreement(margins, labels, eps).mean())


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """P(a positive scores higher than a negative), equal scores one half: Mann-Whitney's U over the pairs."""
    order = np.sort(negative)
    below, upto = (np.searchsorted(order, positive, side) for side in ("left", "right"))
    return float((below + upto).sum() / (2 * len(positive) * len(negative)))


def auc_pooled(scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike) -> float | None:
    """AUC of all chosen against all rejected scores; None without a decided pair.

    Lower than pair accuracy where prompts differ in offset, which Bradley-Terry training leaves free.
    """
    a, b, y = _decided(scores_a, scores_b, labels)
    if not len(y):
        return None
    chosen, rejected = np.where(y == 1, a, b), np.where(y == 1, b, a)
    return auc(chosen, rejected)


def auc_within(scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike) -> float | None:
    """AUC inside each pair, averaged: the pair accuracy on decided labels; None without one."""
    a, b, y = _decided(scores_a, scores_b, labels)
    return pair_accuracy(a - b, y, eps=0.0) if len(y) else None


def auc_mirrored(scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike) -> float | None:
    """AUC of the margin as a detector of "a is preferred", every pair taken in both orders; None without one.

    For Gaussian margins it is Phi(sqrt(2) Phi^-1(accuracy)): larger than the accuracy it tells about.
    """
    a, b, y = _decided(scores_a, scores_b, labels)
    if not len(y):
        return None
    margins = np.where(y == 1, a - b, b - a)
    return auc(margins, -margins)


def wins(scores: ArrayLike, rivals: ArrayLike, eps: float = TIE) -> float:
    """Share of all (reply, rival) pairs that the reply wins, ties 0.5; [K] against [M] replies to one prompt."""
    margins = np.asarray(scores, dtype=float)[:, None] - np.asarray(rivals, dtype=float)[None, :]
    return float(preference(margins, eps).mean())


def _decided(
    scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    a, b, y = (np.asarray(x, dtype=float) for x in (scores_a, scores_b, labels))
    keep = (y == 0) | (y == 1)
    return a[keep], b[keep], y[keep]
