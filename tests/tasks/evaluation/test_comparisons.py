"""Accuracy, AUCs and wins, by numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tasks.evaluation import comparisons as c


def test_pair_accuracy_by_hand():
    # right, wrong, tied margin, tie label with a large margin, tie label with none
    margins, labels = [2.0, 1.0, 0.0, 5.0, 0.0], [1.0, 0.0, 1.0, 0.5, 0.5]
    assert c.agreement(margins, labels).tolist() == [1.0, 0.0, 0.5, 0.5, 0.5]
    assert c.pair_accuracy(margins, labels) == 0.5


def test_a_constant_scorer_is_at_one_half():
    assert c.pair_accuracy(np.zeros(7), [1, 0, 1, 1, 0.5, 0, 1]) == 0.5


@given(st.lists(st.tuples(st.floats(-3, 3), st.sampled_from([0.0, 0.5, 1.0])), min_size=1))
def test_swapping_the_sides_changes_nothing(pairs):
    margins, labels = (np.array(x) for x in zip(*pairs, strict=True))
    assert c.pair_accuracy(-margins, 1 - labels) == pytest.approx(c.pair_accuracy(margins, labels))


def test_rounding_noise_is_a_tie():
    assert c.preference([1e-5, -1e-5, 1e-3, -1e-3]).tolist() == [0.5, 0.5, 1.0, 0.0]


def test_the_three_aucs_differ_when_prompts_have_offsets():
    """Within pairs 0.76, pooled much lower, mirrored higher: Phi(sqrt(2) Phi^-1(accuracy))."""
    rng = np.random.default_rng(0)
    offset, quality = rng.normal(0, 2, 20000), rng.normal(0, 1, (20000, 2))
    a, b = offset + quality[:, 0] + 0.5, offset + quality[:, 1] - 0.5
    flip = rng.random(20000) < 0.5
    first, second, labels = np.where(flip, b, a), np.where(flip, a, b), np.where(flip, 0.0, 1.0)
    accuracy = c.auc_within(first, second, labels)
    assert accuracy == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)
    assert c.auc_mirrored(first, second, labels) == pytest.approx(norm.cdf(np.sqrt(2) * norm.ppf(accuracy)), abs=0.01)
    assert c.auc_pooled(first, second, labels) == pytest.approx(norm.cdf(1 / np.sqrt(2 * 5)), abs=0.01)


def test_aucs_by_hand():
    a, b, labels = [3.0, 1.0, 9.0], [2.0, 4.0, 9.0], [1.0, 0.0, 0.5]  # the tie takes no part
    assert c.auc_within(a, b, labels) == 1.0
    assert c.auc_pooled(a, b, labels) == 1.0  # chosen 3, 4; rejected 2, 1
    assert c.auc_pooled([3.0, 1.0], [2.0, 4.0], [1.0, 1.0]) == 0.25  # chosen 3, 1; rejected 2, 4
    assert c.auc_mirrored(a, b, labels) == 1.0


def test_auc_agrees_with_sklearns_ties_and_all():
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 9, 70).astype(float), rng.integers(-2, 7, 50).astype(float)
    truth = np.r_[np.ones(70), np.zeros(50)]
    assert c.auc(positive, negative) == pytest.approx(roc_auc_score(truth, np.r_[positive, negative]))


def test_no_decided_pair_gives_no_auc():
    for auc in (c.auc_pooled, c.auc_within, c.auc_mirrored):
        assert auc([1.0], [0.0], [0.5]) is None


def test_wins_compare_all_replies_with_all():
    assert c.wins([2.0], [1.0]) == 1.0
    assert c.wins([1.0, 3.0], [2.0, 3.0]) == pytest.approx((0 + 0 + 1 + 0.5) / 4)
