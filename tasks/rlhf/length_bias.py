"""Length bias of a reward model: how much of it there is, and two ways to have less.

Lengths are in reply tokens. Everything is about *gaps* between the two replies of a pair: what a prompt needs in
length cancels out of them. `residual` takes the part of the score away that a line through the gaps explains;
`balanced` weighs the pairs so that, at every size of the gap, the longer reply is preferred as often as the shorter.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.rlhf.batch import Pair
from tasks.rlhf.comparisons import Comparison
from tasks.rlhf.reward_model import RewardModel, lead

Values = NDArray[np.float64]


def take_off(model: RewardModel, rows: Sequence[Comparison]) -> None:
    """Residual: make the score gaps of the rows orthogonal to their length gaps. In place."""
    model.length_slope += slope(score_gaps(model, rows), length_gaps(rows))


def balanced(rows: Sequence[Comparison]) -> list[Comparison]:
    """The rows with balanced weights; those that cannot be balanced are left out."""
    factors = balancing(rows)
    return [replace(row, weight=row.weight * float(f)) for row, f in zip(rows, factors, strict=True) if f]


def score_gaps(model: RewardModel, rows: Sequence[Pair]) -> Values:
    """Score of reply a less that of reply b."""
    return lead(model, [row.a for row in rows], [row.b for row in rows])


def length_gaps(rows: Sequence[Pair]) -> Values:
    """Tokens of reply a less those of reply b."""
    return np.array([len(row.a.reply_ids) - len(row.b.reply_ids) for row in rows], dtype=np.float64)


def slope(score_gaps: Values, gaps: Values) -> float:
    """Score per token, by least squares through the origin; less slope * length, gaps are orthogonal to length.

    Hand-worked: score gaps 2 and -1 at length gaps 4 and 2: (8 - 2) / (16 + 4) = 0.3.
    """
    total = float(gaps @ gaps)
    return float(score_gaps @ gaps) / total if total else 0.0


def correlation(score_gaps: Values, gaps: Values) -> float | None:
    """Correlation of score with length within pairs, -1 to 1; None where nothing differs.

    Which reply is called a is arbitrary, so both gaps have mean 0 by right and none is taken off.
    """
    size = float(np.sqrt((score_gaps @ score_gaps) * (gaps @ gaps)))
    return float(score_gaps @ gaps) / size if size else None


def balancing(rows: Sequence[Pair]) -> Values:
    """Factors of the rows' weights, [len(rows)], after which preferring says nothing about length.

    Decided pairs are put together by octave of their length gap (1, 2-3, 4-7, ... tokens). In each, those that
    prefer the longer reply and those that prefer the shorter get the same weight, and the octave keeps its own.
    Ties and pairs of equal length stay as they are. An octave with one kind only cannot be balanced: factor 0.

    Hand-worked: one octave, weights 1, 1, 2 prefer the longer, weight 1 the shorter: of 5, each kind gets 2.5,
    so the factors are 2.5 / 4 = 0.625 and 2.5.
    """
    factors = np.ones(len(rows))
    leads = length_gaps(rows) * np.sign([row.label - 0.5 for row in rows])  # > 0: the longer one is preferred
    octaves: dict[int, list[int]] = defaultdict(list)
    for i, by in enumerate(leads.tolist()):
        if by:
            octaves[int(abs(by)).bit_length()].append(i)
    for members in octaves.values():
        weights = np.array([rows[i].weight for i in members])
        longer = leads[members] > 0
        totals = {side: weights[longer == side].sum() for side in (True, False)}
        possible = min(totals.values()) > 0
        for i, side in zip(members, longer, strict=True):
            factors[i] = sum(totals.values()) / (2 * totals[bool(side)]) if possible else 0.0
    if octaves and not any(factors[i] for members in octaves.values() for i in members):
        raise ValueError(
            "reward: length_bias = balanced: no size of the length gap has both kinds of pairs, preferring the longer "
            "and the shorter reply; nothing would be left to train on: use residual or off"
        )
    return factors
