"""Whether sigma(margin) is the probability it claims to be. Margins are raw (as trained), labels P(a preferred)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from tasks.evaluation.comparisons import agreement

NUM_BINS = 15


def ece(margins: ArrayLike, labels: ArrayLike, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error over bins of equal mass: sum_b n_b/n |accuracy_b - confidence_b|.

    Confidence is max(p, 1-p), so the orientation of a pair does not matter. Guo 2017, arXiv:1706.04599, eq. 3.
    Biased upwards in small samples: read it next to `ece_null`.
    """
    confidence, correct = _confidence(margins, labels)
    return float(_binned_error(confidence, correct[None, :], num_bins)[0])


def ece_null(margins: ArrayLike, seed: int, num_bins: int = NUM_BINS, num_draws: int = 200) -> float:
    """The ECE that a perfectly calibrated model with these confidences shows on average, by simulation."""
    array = np.asarray(margins, dtype=float)
    confidence, _ = _confidence(array, np.ones(len(array)))
    draws = np.random.default_rng(seed).random((num_draws, len(confidence))) < confidence
    return float(_binned_error(confidence, draws.astype(float), num_bins).mean())


def reliability(margins: ArrayLike, labels: ArrayLike, num_bins: int = 10) -> list[tuple[float, float, int]]:
    """The reliability diagram: (mean confidence, accuracy, pairs) of each bin of equal mass."""
    confidence, correct = _confidence(margins, labels)
    return [
        (float(confidence[start:end].mean()), float(correct[start:end].mean()), int(end - start))
        for start, end in _bins(len(confidence), num_bins)
    ]


def brier(margins: ArrayLike, labels: ArrayLike) -> float:
    """Mean of (p - label)^2; 0.25 is what p = 1/2 scores on decided labels. Brier 1950."""
    return float(np.mean((expit(np.asarray(margins, dtype=float)) - np.asarray(labels, dtype=float)) ** 2))


def nll(margins: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Mean Bradley-Terry loss of margin / temperature, in nats; log 2 is what a margin of 0 scores."""
    scaled, y = np.asarray(margins, dtype=float) / temperature, np.asarray(labels, dtype=float)
    return float(np.mean(y * np.logaddexp(0, -scaled) + (1 - y) * np.logaddexp(0, scaled)))


def temperature(margins: ArrayLike, labels: ArrayLike) -> float:
    """The T in 1/20..20 for which margin / T has the least NLL; > 1 says over-confident. A diagnosis, not a remedy."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: nll(margins, labels, float(np.exp(log_t))),
        bounds=(-np.log(20), np.log(20)),
        method="bounded",
    )
    return float(np.exp(found.x))


def _confidence(margins: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(confidence, correctness) [n], sorted by confidence."""
    array = np.asarray(margins, dtype=float)
    confidence = expit(np.abs(array))
    order = np.argsort(confidence, kind="stable")
    return confidence[order], agreement(array, labels)[order]


def _bins(n: int, num_bins: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, n, min(num_bins, n) + 1).astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _binned_error(
    confidence: NDArray[np.float64], correct_SN: NDArray[np.float64], num_bins: int
) -> NDArray[np.float64]:
    """ECE of each row of correctness [S, n]; confidence [n] is sorted."""
    starts = [start for start, _ in _bins(len(confidence), num_bins)]
    gaps = np.add.reduceat(correct_SN - confidence, starts, axis=1)
    errors: NDArray[np.float64] = np.abs(gaps).sum(axis=1) / len(confidence)
    return errors
