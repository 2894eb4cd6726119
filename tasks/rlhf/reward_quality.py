"""How well a reward model tells pairs apart that it was not trained on, and how much length has to do with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.rlhf.comparisons import Comparison
from tasks.rlhf.length_bias import correlation, length_gaps
from tasks.rlhf.reward_model import RewardModel, lead, score_heads


@dataclass(frozen=True)
class Quality:
    right: NDArray[np.float64]  # per pair: 1, 0, or 0.5 for equal scores; of no meaning for ties
    decided: NDArray[np.bool_]  # not a tie
    leads: NDArray[np.float64]  # tokens by which the preferred reply is longer
    length_correlation: float | None
    heads: dict[str, float | None]  # accuracy of each head on the pairs decided for its objective


def measure(model: RewardModel, rows: Sequence[Comparison]) -> Quality:
    a, b = [row.a for row in rows], [row.b for row in rows]
    gaps = lead(model, a, b)
    labels = np.array([row.label for row in rows])
    heads = {}
    if len(model.objectives) > 1:
        head_gaps = score_heads(model, a) - score_heads(model, b)
        head_labels = np.array([row.labels for row in rows])
        heads = {name: accuracy(head_gaps[:, k], head_labels[:, k]) for k, name in enumerate(model.objectives)}
    lengths = length_gaps(rows)
    return Quality(
        told_right(gaps, labels), labels != 0.5, lengths * np.sign(labels - 0.5), correlation(gaps, lengths), heads
    )


def told_right(gaps: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the higher score is the preferred reply's, 0 where it is not, 0.5 where there is none."""
    return 0.5 + 0.5 * np.sign(gaps * (labels - 0.5))


def accuracy(gaps: NDArray[np.float64], labels: NDArray[np.float64]) -> float | None:
    """Over decided pairs; ties and NaN (nobody said) do not count."""
    decided = (labels != 0.5) & ~np.isnan(labels)
    value = float(told_right(gaps[decided], labels[decided]).mean()) if decided.any() else math.nan
    return None if math.isnan(value) else value
