"""Calibration: by hand, and against scorers whose calibration is known."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from tasks.evaluation import calibration as c


def drawn(n, temperature, seed=0):
    """Margins and labels of a scorer whose margins are `temperature` times too large; sides in random order."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 1.5, n)
    return margins * temperature, (rng.random(n) < expit(margins)).astype(float)


def test_ece_by_hand():
    # One bin: confidence 0.8 four times, three of four right.
    margin = logit(0.8)
    margins, labels = [margin, margin, -margin, -margin], [1, 1, 0, 1]
    assert c.ece(margins, labels, num_bins=1) == pytest.approx(0.05)
    # Two bins: 0.6 (both wrong), 0.9 (both right): (0.6 + 0.1) / 2.
    margins = [logit(0.6), logit(0.6), logit(0.9), logit(0.9)]
    assert c.ece(margins, [0, 0, 1, 1], num_bins=2) == pytest.approx(0.35)


def test_ece_does_not_depend_on_the_sides():
    margins, labels = drawn(500, 1.0)
    assert c.ece(-margins, 1 - labels) == pytest.approx(c.ece(margins, labels))


@pytest.mark.parametrize(("n", "known"), [(200, 0.085), (1000, 0.038), (5000, 0.016)])
def test_the_ece_of_perfect_calibration_is_not_zero(n, known):
    margins, labels = drawn(n, 1.0, seed=n)
    null = c.ece_null(margins, seed=0)
    assert null == pytest.approx(known, rel=0.25)
    assert c.ece(margins, labels) < 2 * null


def test_overconfidence_stands_out_from_the_null():
    margins, labels = drawn(1000, 3.0)
    assert c.ece(margins, labels) > 2.5 * c.ece_null(margins, seed=0)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_finds_the_factor(true):
    assert c.temperature(*drawn(20000, true)) == pytest.approx(true, rel=0.06)


def test_a_scorer_that_knows_nothing():
    labels = [1, 0, 1, 0]
    assert c.nll(np.zeros(4), labels) == pytest.approx(math.log(2))
    assert c.brier(np.zeros(4), labels) == 0.25


def test_nll_and_brier_by_hand_with_a_tie():
    margins, labels = [logit(0.8), logit(0.6)], [1.0, 0.5]
    assert c.nll(margins, labels) == pytest.approx(-(math.log(0.8) + 0.5 * math.log(0.6) + 0.5 * math.log(0.4)) / 2)
    assert c.brier(margins, labels) == pytest.approx((0.04 + 0.01) / 2)


def test_extreme_margins_stay_finite():
    assert c.nll([1000.0], [0.0]) == 1000.0
    assert math.isfinite(c.temperature([1000.0, -1000.0, 1000.0], [0.0, 0.0, 1.0]))


def test_reliability_keeps_every_pair():
    margins, labels = drawn(103, 1.0)
    bins = c.reliability(margins, labels)
    assert len(bins) == 10
    assert sum(n for _, _, n in bins) == 103
    assert [confidence for confidence, _, _ in bins] == sorted(confidence for confidence, _, _ in bins)
    assert len(c.reliability(margins[:3], labels[:3])) == 3
