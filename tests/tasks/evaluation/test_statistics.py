"""Intervals: deterministic, clustered, honest at the edges, and of the promised coverage."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from tasks.evaluation.statistics import mean, share, wilson


def test_one_row_per_cluster_agrees_with_scipys_bootstrap():
    values = np.random.default_rng(0).normal(2, 1, 200)
    ours = mean(values, range(200), seed=0, num_resamples=4000)
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_rows_of_one_cluster_are_no_new_evidence():
    """Each row ten times over: the clustered interval stays, a row-wise one would shrink by sqrt(10)."""
    values = np.random.default_rng(1).normal(0, 1, 60)
    once = mean(values, range(60), seed=0, num_resamples=2000)
    tenfold = mean(np.repeat(values, 10), np.repeat(range(60), 10), seed=0, num_resamples=2000)
    blind = mean(np.repeat(values, 10), range(600), seed=0, num_resamples=2000)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    assert blind.high - blind.low < 0.4 * (once.high - once.low)


def test_clusters_of_unequal_size_weigh_by_their_rows():
    values, clusters = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    found = mean(values, clusters, seed=0, num_resamples=500)
    assert found.value == 0.75
    assert found.n == 4
    assert (found.low, found.high) == (0.0, 1.0)  # a resample of b alone, and of a alone


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """95% by promise; a percentile bootstrap of 80 clusters of like rows may give a few points less."""
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        centres = rng.normal(0, 1, 80)
        values = np.repeat(centres, 4) + rng.normal(0, 0.5, 320)
        found = mean(values, np.repeat(range(80), 4), seed=trial, num_resamples=400)
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_the_seed_decides():
    values = np.random.default_rng(3).random(50)
    first, again, other = (share(values, range(50), seed=s, num_resamples=300) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_chunks_change_nothing(monkeypatch):
    values = np.random.default_rng(4).random(50)
    whole = mean(values, range(50), seed=0, num_resamples=300)
    monkeypatch.setattr("tasks.evaluation.statistics._CELLS", 700)
    assert mean(values, range(50), seed=0, num_resamples=300) == whole


@pytest.mark.parametrize(
    ("value", "n", "low", "high"),
    [(0.0, 50, 0.0, 0.0714), (0.0, 100, 0.0, 0.0370), (0.55, 100, 0.4524, 0.6438), (0.55, 500, 0.5062, 0.5931)],
)
def test_wilson_by_known_values(value, n, low, high):
    assert wilson(value, n) == pytest.approx((low, high), abs=1e-4)


def test_all_alike_is_not_certainty():
    found = share([0.0] * 100, np.repeat(range(50), 2), seed=0, num_resamples=300)
    assert found.n == 100
    assert (found.low, found.high) == pytest.approx((0.0, 0.0714), abs=1e-4)  # 0 of 50 clusters, not of 100 rows


def test_what_cannot_be_told_is_none():
    assert mean([], [], seed=0, num_resamples=100) is None
    assert share([], [], seed=0, num_resamples=100) is None
    assert mean([1.0, 2.0], ["a", "a"], seed=0, num_resamples=100) is None
    assert share([1.0], ["a"], seed=0, num_resamples=100).low == pytest.approx(0.2065, abs=1e-4)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="2 values for 3 clusters"):
        mean([1.0, 2.0], ["a", "b", "c"], seed=0, num_resamples=100)
    with pytest.raises(AssertionError):
        share([1.5], ["a"], seed=0, num_resamples=100)
