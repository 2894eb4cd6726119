"""The gate: rules on intervals, never on point values, so that noise cannot promote a model.

A rule passes when its whole 95% interval is on the right side of the threshold, fails when it is wholly on the
wrong side, and is unclear between. All rules must pass, which needs no correction for their number
(intersection-union test; Berger 1982, Technometrics 24).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import ndtri

Outcome = Literal["pass", "fail", "unclear"]
Estimate = Mapping[str, Any]  # {value, n, low, high}

POWER = 0.8  # wanted chance to see an effect of the size observed
MOST = 100  # times the present n: what `needed` says at most


@dataclass(frozen=True)
class Rule:
    """One rule with what it saw; `threshold` is a least value where `least`, else a greatest one."""

    name: str
    value: float | None
    n: int
    low: float | None
    high: float | None
    threshold: float
    least: bool
    outcome: Outcome
    needed: int  # further prompts that would probably settle an unclear rule, else 0


@dataclass(frozen=True)
class Verdict:
    verdict: Literal["pass", "fail", "not enough evidence"]
    needed: int
    rules: tuple[Rule, ...]


def at_least(name: str, estimate: Estimate | None, threshold: float) -> Rule:
    """Superiority over, or (threshold < 0, of a difference) non-inferiority within, a threshold."""
    return _rule(name, estimate, threshold, least=True)


def at_most(name: str, estimate: Estimate | None, threshold: float) -> Rule:
    return _rule(name, estimate, threshold, least=False)


def decide(rules: Sequence[Rule]) -> Verdict:
    """pass if all pass; fail if any fails (or there is none); else not enough evidence."""
    outcomes = {rule.outcome for rule in rules}
    if not rules or "fail" in outcomes:
        return Verdict("fail", 0, tuple(rules))
    if "unclear" in outcomes:
        return Verdict("not enough evidence", max(rule.needed for rule in rules), tuple(rules))
    return Verdict("pass", 0, tuple(rules))


def complement(estimate: Estimate | None) -> Estimate | None:
    """The share of the others: 1 - value, its bounds swapped."""
    if estimate is None or any(estimate.get(key) is None for key in ("value", "low", "high")):
        return None
    return {
        "value": 1 - estimate["value"],
        "n": estimate.get("n"),
        "low": 1 - estimate["high"],
        "high": 1 - estimate["low"],
    }


def needed(value: float, n: int, low: float, high: float, threshold: float) -> int:
    """Further rows until an effect of the size observed is seen with 80% power.

    A bound stands off the value by h, which shrinks as 1/sqrt(n); the effect is d = |value - threshold|. Seeing
    it with power P takes n' = n (h/d)^2 ((z_.975 + z_P) / z_.975)^2. An effect near zero would take for ever:
    the answer is cut at 100 n.
    """
    half = value - low if value > threshold else high - value
    distance = abs(value - threshold)
    z = float(ndtri(0.975))
    wanted = MOST * n + 1.0 if distance == 0 else n * (half / distance * (z + float(ndtri(POWER))) / z) ** 2
    return max(1, math.ceil(min(wanted, MOST * n)) - n)


def _rule(name: str, estimate: Estimate | None, threshold: float, *, least: bool) -> Rule:
    numbers = [(estimate or {}).get(key) for key in ("value", "low", "high", "n")]
    if any(not isinstance(x, int | float) or isinstance(x, bool) or not math.isfinite(x) for x in numbers):
        # What was not measured did not pass.
        return Rule(name, None, 0, None, None, threshold, least, "fail", 0)
    value, low, high, n = (float(x) for x in numbers if x is not None)
    worst, best = (low, high) if least else (-high, -low)
    limit = threshold if least else -threshold
    if not low <= value <= high or n < 1:
        raise ValueError(f"gate: {name}: value {value}, interval {low}..{high}, n {n:.0f} contradict each other")
    outcome: Outcome = "pass" if worst > limit else "fail" if best <= limit else "unclear"
    further = needed(value, int(n), low, high, threshold) if outcome == "unclear" else 0
    return Rule(name, value, int(n), low, high, threshold, least, outcome, further)
