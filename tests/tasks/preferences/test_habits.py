"""How raters work: cases 60 to 62 of bad inputs, and the numbers behind them."""

import numpy as np
import pytest
from scipy import stats

from tasks.preferences import habits
from tasks.preferences.rater_options import RaterOptions
from tests.tasks.preferences.rater_votes import read, row

OPTIONS = RaterOptions()


def votes_of(rater, number, start=0, choice=lambda n: "ab"[n % 2], **change):
    return [row(start + n, rater, choice(n), **change) for n in range(number)]


def watched(tmp_path, rows, **options):
    found = read(tmp_path, rows)
    return found, habits.watch(found, OPTIONS.model_copy(update=options))


def flags(tmp_path, rows, **options):
    found, seen = watched(tmp_path, rows, **options)
    return dict(zip(found.raters, seen.flags, strict=True))


def balanced(number_each=40, raters="abcdefgh"):
    return [vote for at, rater in enumerate(raters) for vote in votes_of(rater, number_each, 1000 * at)]


def test_a_rater_who_nearly_always_picks_the_first_is_held_out(tmp_path):
    """Case 61: 28 of 30 is above 90%, 27 of 30 is not, and 29 votes are too few to say."""
    first = [
        *balanced(),
        *votes_of("leans", 30, 20_000, lambda n: "a" if n < 28 else "b"),
        *votes_of("mild", 30, 30_000, lambda n: "a" if n < 27 else "b"),
        *votes_of("young", 29, 40_000, lambda n: "a"),
        *votes_of("mirror", 30, 50_000, lambda n: "b"),
        *votes_of("tied", 60, 60_000, lambda n: "tie" if n > 20 else "a"),
    ]
    found, seen = watched(tmp_path, first)
    raised = {name for name, of in zip(found.raters, seen.flags, strict=True) if habits.POSITION in of}
    assert raised == {"leans", "mirror"}
    assert seen.held_out(found.raters, ()) == dict.fromkeys(raised, "position_bias")
    assert seen.held_out(found.raters, ("leans",)) == {"mirror": "position_bias"}


def test_the_side_that_counts_is_the_one_that_was_shown(tmp_path):
    """Shown half of the pairs the other way round: one rater always picks the first, one always the same reply."""
    turned = {"reply_a": "No.", "reply_b": "It is so."}
    leans = [row(n, "leans", "a", **(turned if n % 2 else {})) for n in range(40)]
    steady = [row(n, "steady", "ab"[n % 2], **(turned if n % 2 else {})) for n in range(40)]
    raised = flags(tmp_path, [*balanced(), *leans, *steady])
    assert raised["leans"] == ("position_bias",)
    assert raised["steady"] == ()


def test_position_is_tested_as_scipy_tests_it(tmp_path):
    rows = [*votes_of("even", 51), *votes_of("odd", 60, 500, lambda n: "a" if n < 41 else "b")]
    found, seen = watched(tmp_path, rows)
    for r, name in enumerate(found.raters):
        decided, first = int(seen.decided[r]), int(seen.picked_first[r])
        assert seen.first_p[r] == pytest.approx(stats.binomtest(first, decided).pvalue, abs=1e-6), name
        expected = stats.beta(first + 0.5, decided - first + 0.5).ppf([0.025, 0.975])
        assert [seen.first_low[r], seen.first_high[r]] == pytest.approx(expected, abs=1e-6)


def test_a_speeder_is_held_out_where_the_texts_are_long(tmp_path):
    """Case 62: a median below 2 s over 30 long comparisons; quick answers to short texts are no offence."""
    long = {"reply_a": "It is so. " * 40}
    rows = [
        *balanced(),
        *votes_of("fast", 16, 20_000, seconds=1.0, **long),
        *votes_of("fast", 15, 21_000, seconds=9.0, **long),
        *votes_of("slow", 15, 30_000, seconds=1.0, **long),
        *votes_of("slow", 16, 31_000, seconds=9.0, **long),
        *votes_of("short", 40, 40_000, seconds=0.5),
        *votes_of("untimed", 40, 50_000, **long),
    ]
    found, seen = watched(tmp_path, rows)
    raised = {name: of for name, of in zip(found.raters, seen.flags, strict=True) if of}
    assert raised == {"fast": ("speeder",)}
    medians = dict(zip(found.raters, seen.median_seconds, strict=True))
    assert (medians["fast"], medians["slow"]) == (1.0, 9.0)
    assert np.isnan(medians["untimed"])
    assert seen.held_out(found.raters, ()) == {"fast": "speeder"}


def test_who_has_more_than_a_third_of_a_shard_weighs_less(tmp_path):
    """Case 60: 120 of 280 votes; the cap leaves exactly 30% of what the shard then weighs."""
    found, seen = watched(tmp_path, [*balanced(40, "abcd"), *votes_of("busy", 120, 9000)])
    busy = found.raters.index("busy")
    assert seen.flags[busy] == ("rater_dominance",)
    weight = np.bincount(found.rater) * seen.cap
    assert weight[busy] / weight.sum() == pytest.approx(0.3)
    assert seen.largest_share[busy] == pytest.approx(120 / 280)
    assert (np.delete(seen.cap, busy) == 1.0).all()
    assert not seen.held_out(found.raters, ())


def test_two_dominant_raters_are_both_capped(tmp_path):
    rows = [*balanced(30, "abc"), *votes_of("big", 300, 9000), *votes_of("huge", 900, 12_000)]
    found, seen = watched(tmp_path, rows)
    weight = np.bincount(found.rater) * seen.cap
    shares = dict(zip(found.raters, weight / weight.sum(), strict=True))
    assert shares["big"] == pytest.approx(0.3)
    assert shares["huge"] == pytest.approx(0.3)


def test_few_raters_are_balanced_and_a_single_one_is_left_alone(tmp_path):
    found, seen = watched(tmp_path / "two", [*votes_of("ann", 90), *votes_of("bob", 30, 500)])
    assert (np.bincount(found.rater) * seen.cap) == pytest.approx([30, 30])
    found, seen = watched(tmp_path / "one", votes_of("ann", 90))
    assert seen.cap.tolist() == [1.0]
    assert seen.flags == (("rater_dominance",),)


def test_more_than_200_votes_on_a_day_weigh_as_200(tmp_path):
    rows = [
        *balanced(150),
        *votes_of("keen", 300, 20_000, created_at="2026-01-01T10:00:00Z"),
        *votes_of("keen", 100, 21_000, created_at="2026-01-02T10:00:00Z"),
    ]
    found, seen = watched(tmp_path, rows)
    keen = found.raters.index("keen")
    assert seen.flags[keen] == ("votes_per_day",)
    assert seen.most_per_day[keen] == 300
    assert seen.cap[keen] == pytest.approx(300 / 400)


def test_a_source_without_raters_has_no_habits(tmp_path):
    _, seen = watched(tmp_path, votes_of("source:hh", 500, seconds=0.1, created_at="2026-01-01T10:00:00Z"))
    assert seen.flags == ((),)
    assert seen.cap.tolist() == [1.0]
    assert np.isnan(seen.median_seconds[0])


@pytest.mark.slow
def test_the_interval_of_a_share_covers():
    rng = np.random.default_rng(0)
    share = rng.uniform(0.1, 0.9, 20_000)
    n = rng.integers(30, 300, 20_000)
    low, high = habits.jeffreys(rng.binomial(n, share), n)
    held = float(((low <= share) & (share <= high)).mean())
    print(held)
    assert 0.93 <= held <= 0.97
