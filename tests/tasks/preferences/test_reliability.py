"""Reliability: known raters are recovered, few votes shrink to the mean, an adversary counts for nothing."""

import itertools

import numpy as np
import pytest

from tasks.preferences import reliability
from tasks.preferences.reliability import dawid_skene
from tasks.preferences.votes import BOTH_BAD, FIRST, SECOND, TIE
from tests.tasks.preferences.rater_votes import panel

RIGHT = [0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98]


def test_known_reliability_is_recovered():
    found = dawid_skene(*panel(RIGHT, 4000, 3, seed=1, tie_share=0.1), num_raters=10)
    assert np.corrcoef(found.right, RIGHT)[0, 1] > 0.98
    assert np.abs(found.right - RIGHT).max() < 0.06
    slope = np.polyfit(found.right, RIGHT, 1)[0]
    assert slope == pytest.approx(1.0, abs=0.1)  # calibrated: what is said is what is


def test_the_same_as_the_algorithm_written_out(monkeypatch):
    """Dawid and Skene with the same prior in loops over items and votes: P(right) to 1e-6."""
    monkeypatch.setattr(reliability, "TOLERANCE", 1e-9)
    item, rater, value = panel([0.6, 0.7, 0.9, 0.8], 60, 3, seed=2, tie_share=0.2)
    value[::17] = BOTH_BAD
    found = dawid_skene(item, rater, value, 4)
    posterior = {i: np.bincount(value[item == i], minlength=4) / (item == i).sum() for i in range(60)}
    swap = [1, 0, 2, 3]
    for _ in range(reliability.MAX_STEPS + 1):
        counts = np.zeros((4, 4, 4))
        for i, r, v in zip(item, rater, value, strict=True):
            for k in range(4):
                counts[r, k, v] += posterior[i][k]
                counts[r, swap[k], swap[v]] += posterior[i][k]
        counts[:, 2:] /= 2
        mean = counts.sum(0) + 0.5 + np.eye(4)
        counts += reliability.STRENGTH * mean / mean.sum(1, keepdims=True)
        confusion = counts / counts.sum(2, keepdims=True)
        for r, k in itertools.product(range(4), (TIE, BOTH_BAD)):
            if confusion[r, k, k] < 0.5:
                confusion[r, k] *= 0.5 / (1 - confusion[r, k, k])
                confusion[r, k, k] = 0.5
        prior = np.mean(list(posterior.values()), 0)
        prior = (prior + prior[swap] + 2e-6) / 2
        before = posterior
        posterior = {}
        for i in range(60):
            chance = prior / prior.sum()
            for r, v in zip(rater[item == i], value[item == i], strict=True):
                chance = chance * confusion[r, :, v]
            posterior[i] = chance / chance.sum()
        if max(np.abs(posterior[i] - before[i]).max() for i in range(60)) < reliability.TOLERANCE:
            break
    expected = counts[:, FIRST, FIRST] / (counts[:, FIRST, FIRST] + counts[:, FIRST, SECOND])
    assert found.right == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_votes", [20_000, 100_000])
def test_errors_are_not_taken_for_ties(num_votes):
    """All items have a better reply, a tenth of the votes says otherwise; one to three votes on an item."""
    rng = np.random.default_rng(0)
    sizes = rng.choice([1, 1, 2, 3], num_votes // 2)
    item = np.repeat(np.arange(len(sizes)), sizes)
    rater = np.concatenate([rng.choice(30, size, replace=False) for size in sizes]).astype(np.int32)
    said = rng.choice([FIRST, SECOND, TIE, BOTH_BAD], len(item), p=[0.67, 0.22, 0.08, 0.03])
    turned = rng.random(len(sizes))[item] < 0.5
    value = np.where(turned & (said < TIE), 1 - said, said).astype(np.int8)
    found = dawid_skene(item, rater, value, 30)
    right = 0.67 / 0.89
    assert found.right.mean() == pytest.approx(right, abs=0.01)
    assert np.mean((found.low <= right) & (right <= found.high)) >= 0.85  # 30 raters; they are estimated together


def test_few_votes_shrink_to_the_mean():
    item, rater, value = panel([0.8] * 8, 3000, 3, seed=3)
    perfect_start = np.flatnonzero(rater == 0)[:3]  # rater 0 keeps three votes, rater 1 all
    kept = (rater != 0) | np.isin(np.arange(len(rater)), perfect_start)
    found = dawid_skene(item[kept], rater[kept], value[kept], 9)
    mean = found.right[1:8].mean()
    assert found.votes[0] == 3
    assert abs(found.right[0] - mean) < 0.08
    assert found.right[8] == pytest.approx(mean, abs=0.01)  # without a vote: the mean itself
    assert found.high[0] - found.low[0] > 3 * (found.high[1] - found.low[1])


def test_an_adversary_and_a_coin_weigh_nothing_and_are_not_turned_round():
    found = dawid_skene(*panel([0.0, 0.5, 0.8, 0.8, 0.9, 0.9], 3000, 3, seed=4), num_raters=6)
    assert found.right[0] < 0.03
    assert found.weights[0] == 0.0
    assert found.weights[1] < 0.2
    assert found.weights[2:] == pytest.approx(np.log(np.array([0.8, 0.8, 0.9, 0.9]) / [0.2, 0.2, 0.1, 0.1]), abs=0.25)


def test_no_rater_is_beyond_doubt():
    found = dawid_skene(*panel([1.0] * 4, 20_000, 2, seed=0), num_raters=4)
    assert found.weights == pytest.approx([np.log(0.99 / 0.01)] * 4)


def test_the_order_of_the_votes_and_of_a_pair_has_no_say():
    item, rater, value = panel(RIGHT, 300, 3, seed=5, tie_share=0.2)
    found = dawid_skene(item, rater, value, 10)
    order = np.random.default_rng(0).permutation(len(item))
    again = dawid_skene(item[order], rater[order], value[order], 10)
    assert again.right.tolist() == found.right.tolist()
    flipped = np.isin(item, np.arange(0, 300, 2)) & (value < TIE)
    turned = dawid_skene(item, rater, np.where(flipped, 1 - value, value).astype(np.int8), 10)
    assert turned.right == pytest.approx(found.right, abs=1e-9)


def test_what_one_rater_alone_judged_says_nothing():
    item, rater, value = panel(RIGHT, 300, 3, seed=6)
    found = dawid_skene(item, rater, value, 10)
    alone = np.arange(1000, 1500)
    more = dawid_skene(
        np.append(item, alone),
        np.append(rater, np.zeros(500, np.int32)),
        np.append(value, np.full(500, FIRST, np.int8)),
        10,
    )
    assert more.right.tolist() == found.right.tolist()
    assert dawid_skene(alone, np.zeros(500, np.int32), np.zeros(500, np.int8), 1) is None
    twice = np.zeros(2, np.int64)
    assert dawid_skene(twice, np.zeros(2, np.int32), np.array([FIRST, SECOND], np.int8), 1) is None  # with oneself


@pytest.mark.slow
@pytest.mark.parametrize(("num_items", "per_item"), [(400, 3), (600, 2)])
def test_the_interval_of_reliability_covers(num_items, per_item):
    """About 100 shared votes each; taking the inferred truth for known would cover three in four."""
    rng = np.random.default_rng(1)
    held = []
    for seed in range(150):
        right = rng.uniform(0.65, 0.95, 12)
        found = dawid_skene(*panel(right, num_items, per_item, seed, tie_share=0.08), num_raters=12)
        held += list((found.low <= right) & (right <= found.high))
    print(num_items, per_item, np.mean(held))
    assert 0.93 <= np.mean(held) <= 0.97
