"""The rules of the gate: three outcomes, missing numbers, and how much more is needed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluation import gates


def estimate(value, low, high, n=100):
    return {"value": value, "n": n, "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.51, 0.7, "pass"), (0.49, 0.7, "unclear"), (0.3, 0.49, "fail"), (0.5, 0.7, "unclear"), (0.3, 0.5, "fail")],
)
def test_at_least(low, high, outcome):
    assert gates.at_least("win_rate", estimate((low + high) / 2, low, high), 0.5).outcome == outcome


@pytest.mark.parametrize(("low", "high", "outcome"), [(5, 29, "pass"), (25, 35, "unclear"), (31, 40, "fail")])
def test_at_most(low, high, outcome):
    assert gates.at_most("kl", estimate((low + high) / 2, low, high), 30).outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(-0.04, 0.1, "pass"), (-0.1, 0.02, "unclear"), (-0.2, -0.06, "fail")]
)
def test_non_inferiority_allows_a_small_loss_only(low, high, outcome):
    assert gates.at_least("decline_change", estimate((low + high) / 2, low, high), -0.05).outcome == outcome


@pytest.mark.parametrize(
    "missing",
    [
        None,
        {},
        estimate(None, 0.6, 0.7),
        estimate(math.nan, 0.6, 0.7),
        estimate(0.65, math.nan, 0.7),
        estimate(0.65, 0.6, math.inf),
        estimate(0.65, 0.6, 0.7, n=None),
        estimate("0.65", 0.6, 0.7),
        estimate(True, True, True),
    ],
)
def test_what_was_not_measured_fails(missing):
    for rule in (gates.at_least("x", missing, 0.5), gates.at_most("x", missing, 0.5)):
        assert rule.outcome == "fail"
        assert rule.value is None
        assert gates.decide([rule]).verdict == "fail"


def test_a_contradiction_is_an_error():
    with pytest.raises(ValueError, match=r"gate: x: value 0\.9"):
        gates.at_least("x", estimate(0.9, 0.6, 0.7), 0.5)


def test_one_failure_decides_and_one_doubt_withholds():
    good = gates.at_least("a", estimate(0.6, 0.55, 0.65), 0.5)
    doubt = gates.at_least("b", estimate(0.52, 0.47, 0.57), 0.5)
    bad = gates.at_least("c", estimate(0.4, 0.35, 0.45), 0.5)
    assert gates.decide([good]).verdict == "pass"
    assert gates.decide([good, doubt]).verdict == "not enough evidence"
    assert gates.decide([good, doubt]).needed == doubt.needed > 0
    assert gates.decide([good, doubt, bad]).verdict == "fail"
    assert gates.decide([]).verdict == "fail"


def test_needed_is_what_a_simulation_needs():
    """With the number it asks for, a win rate of the size observed is seen in about 80% of trials."""
    half = 1.96 * math.sqrt(0.56 * 0.44 / 100)
    total = 100 + gates.needed(0.56, 100, 0.56 - half, 0.56 + half, 0.5)
    assert total == pytest.approx(537, abs=3)
    shares = np.random.default_rng(0).binomial(total, 0.56, 20000) / total
    seen = shares - 1.96 * np.sqrt(shares * (1 - shares) / total) > 0.5
    assert seen.mean() == pytest.approx(0.8, abs=0.02)


def test_needed_has_an_end():
    assert gates.needed(0.5, 100, 0.4, 0.6, 0.5) == 100 * gates.MOST - 100


@given(st.floats(0.01, 0.99), st.floats(0.001, 0.3), st.integers(2, 5000), st.floats(0, 1))
def test_only_a_doubt_needs_more(value, half, n, threshold):
    rule = gates.at_least("x", estimate(value, value - half, value + half, n), threshold)
    assert (rule.needed > 0) == (rule.outcome == "unclear")


def test_complement_swaps_the_bounds():
    found = gates.complement(estimate(0.9, 0.8, 0.95))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.1, 0.05, 0.2))
    assert gates.complement(None) is None
    assert gates.complement(estimate(None, 0.1, 0.2)) is None
