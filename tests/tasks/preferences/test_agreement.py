"""Agreement: the same numbers as reference implementations, by hand where small, intervals that cover."""

import krippendorff
import numpy as np
import pytest
from scipy import stats

from tasks.preferences import agreement, ceiling
from tasks.preferences.votes import BOTH_BAD, FIRST, SECOND, TIE
from tests.tasks.preferences.rater_votes import panel

MIDDLE = {FIRST: 0.0, TIE: 1.0, SECOND: 2.0, BOTH_BAD: np.nan}


def random_votes(seed, num_items=200, num_raters=6):
    """Skewed votes of all four values, some items with one vote, some with many."""
    rng = np.random.default_rng(seed)
    asked = rng.random((num_items, num_raters)) < rng.uniform(0.1, 0.9, (num_items, 1))
    item, rater = np.nonzero(asked)
    leaning = rng.dirichlet([2, 1, 0.5, 0.3], num_items)
    value = np.array([rng.choice(4, p=leaning[i]) for i in item], dtype=np.int8)
    return item, rater, value


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_the_reference_implementation(seed):
    item, rater, value = random_votes(seed)
    table = np.full((rater.max() + 1, item.max() + 1), np.nan)
    table[rater, item] = value
    found = agreement.patterns(item, value)
    nominal = krippendorff.alpha(table, level_of_measurement="nominal")
    assert agreement.alpha(found, "nominal").value == pytest.approx(nominal, abs=1e-6)
    for code, place in MIDDLE.items():
        table[rater[value == code], item[value == code]] = place
    ordinal = krippendorff.alpha(table, level_of_measurement="ordinal")
    assert agreement.alpha(found, "ordinal").value == pytest.approx(ordinal, abs=1e-6)


def test_agreement_by_hand():
    """Three items: a a, a b, a tie tie. Of pairs of votes agree 1, 0 and 1/3."""
    item = np.array([0, 0, 1, 1, 2, 2, 2, 3])
    value = np.array([FIRST, FIRST, FIRST, SECOND, FIRST, TIE, TIE, SECOND], dtype=np.int8)
    found = agreement.patterns(item, value)
    assert found.num_items == 3  # the fourth has one vote
    assert agreement.raw(found) == agreement.Estimate(pytest.approx(4 / 9), 3)  # too few items for an interval


def test_nothing_can_be_said_where_nobody_shares_an_item_or_all_say_the_same():
    alone = agreement.patterns(np.arange(5), np.zeros(5, dtype=np.int8))
    assert agreement.alpha(alone, "nominal") is None
    assert agreement.raw(alone) is None
    assert ceiling.from_agreement(alone, 0.0) is None
    alike = agreement.patterns(np.repeat(np.arange(20), 2), np.zeros(40, dtype=np.int8))
    assert agreement.alpha(alike, "nominal") is None
    assert agreement.raw(alike).value == 1.0
    none = agreement.patterns(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int8))
    assert agreement.alpha(none, "ordinal") is None


def test_the_bootstrap_over_patterns_is_that_over_items():
    """Resampling items one by one, the obvious way, gives the same spread."""
    item, _, value = random_votes(3, num_items=300)
    found = agreement.patterns(item, value)
    fast = agreement.alpha(found, "nominal")
    counts = np.stack([np.bincount(item, value == k, 300) for k in range(4)], 1)
    counts = counts[counts.sum(1) > 1]
    slow = agreement.alpha(agreement.Patterns(counts, np.ones(len(counts))), "nominal", seed=1)
    assert slow.value == pytest.approx(fast.value)
    width = slow.high - slow.low
    assert fast.low == pytest.approx(slow.low, abs=0.1 * width)
    assert fast.high == pytest.approx(slow.high, abs=0.1 * width)


def test_the_implied_ceiling_is_exact_for_equal_raters_and_a_bound_for_items_that_differ():
    item, _, value = panel([0.85] * 8, 40_000, 2, seed=0)
    found, at_least = ceiling.from_agreement(agreement.patterns(item, value), 0.0)
    assert found.value == pytest.approx(0.85, abs=0.005)
    assert at_least == pytest.approx(0.85**2 + 0.15**2, abs=0.005)
    rng = np.random.default_rng(0)
    chance = rng.beta(0.8, 0.8, 40_000)  # of `first`, the same for all raters of an item
    votes = (rng.random((40_000, 2)) < chance[:, None]).astype(np.int8).ravel()
    found, at_least = ceiling.from_agreement(agreement.patterns(np.repeat(np.arange(40_000), 2), votes), 0.0)
    truth = np.maximum(chance, 1 - chance).mean()
    assert at_least < truth < found.value
    assert found.value - truth > 0.01  # without difficulty that differs, the bound would be met


def test_a_tie_is_worth_one_half_whoever_judges():
    item, _, value = panel([1.0] * 4, 500, 2, seed=0)
    found, _ = ceiling.from_agreement(agreement.patterns(item, value), 0.4)
    assert found.value == pytest.approx(0.4 / 2 + 0.6)


def test_a_mean_over_clusters_knows_that_their_rows_are_one_draw():
    values = np.repeat(np.random.default_rng(0).random(40), 25)
    clusters = [str(n // 25) for n in range(1000)]
    wide = agreement.clustered(values, clusters)
    narrow = agreement.clustered(values, [str(n) for n in range(1000)])
    assert wide.n == narrow.n == 1000
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(5, rel=0.05)
    assert agreement.clustered(np.zeros(0), []) is None


def test_the_interval_is_bca_with_the_reach_of_student(monkeypatch):
    """Beside scipy's BCa over the items themselves, at the level that reaches as far as Student's t does."""
    item, _, value = random_votes(2, num_items=20)
    counts = np.stack([np.bincount(item, value == k, 20) for k in range(4)], 1)
    counts = counts[counts.sum(1) > 1]
    n, asked = len(counts), []
    with monkeypatch.context() as patch:
        patch.setattr(agreement, "estimate", lambda found, statistic, seed: asked.append(statistic))
        agreement.alpha(agreement.Patterns(counts, np.ones(n)), "nominal")

    def alpha(drawn, axis=-1):
        values = asked[0](np.stack([np.bincount(row, minlength=n) for row in np.atleast_2d(drawn)]).astype(float))
        return values if drawn.ndim > 1 else values[0]

    level = 2 * stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)) - 1
    options = {"n_resamples": 20_000, "rng": 0, "vectorized": True, "axis": -1, "confidence_level": level}
    expected = stats.bootstrap((np.arange(n),), alpha, method="BCa", **options).confidence_interval
    monkeypatch.setattr(agreement, "NUM_RESAMPLES", 20_000)
    found = agreement.alpha(agreement.patterns(item, value), "nominal")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("num_items", "per_item"), [(50, 3), (100, 2), (200, 3)])
def test_intervals_cover(num_items, per_item):
    """95% intervals of alpha, raw agreement and the ceiling hold the truth in 93 to 97% of 2,000 worlds."""
    right = [0.6, 0.7, 0.8, 0.9, 0.95]
    item, _, value = panel(right, 200_000, per_item, seed=9, tie_share=0.15)
    whole = agreement.patterns(item, value)
    statistics = {
        "nominal": lambda p, s: agreement.alpha(p, "nominal", s),
        "ordinal": lambda p, s: agreement.alpha(p, "ordinal", s),
        "raw": agreement.raw,
        "ceiling": lambda p, s: ceiling.from_agreement(p, 0.15, s)[0],
    }
    truth = {name: statistic(whole, 0).value for name, statistic in statistics.items()}
    held = dict.fromkeys(statistics, 0)
    for seed in range(2000):
        item, _, value = panel(right, num_items, per_item, seed=seed, tie_share=0.15)
        found = agreement.patterns(item, value)
        for name, statistic in statistics.items():
            estimate = statistic(found, 1_000_000 + seed)  # resampled by other draws than the votes were
            held[name] += estimate.low <= truth[name] <= estimate.high
    print(num_items, per_item, {name: f"{count / 20:.1f}%" for name, count in held.items()})
    assert all(1860 <= count <= 1940 for count in held.values()), held
