"""What can be said of the raters, and what each of their votes is worth: the content of data/raters.json.

Agreement, reliability and habits are of raters with a name. Where a source names none, nothing can be told apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.preferences import agreement, ceiling, habits
from tasks.preferences.agreement import Estimate, Patterns
from tasks.preferences.habits import Habits
from tasks.preferences.rater_options import RaterOptions, Weighting
from tasks.preferences.reliability import Reliability, dawid_skene
from tasks.preferences.votes import ANONYMOUS, BOTH_BAD, FIRST, NUM_CLASSES, SECOND, TIE, UNSURE, VALUES, Votes


@dataclass(frozen=True)
class Judgement:
    """factors: on the weight of every vote of a rater (1.0 where it is not given); held_out: {rater: why}."""

    factors: Mapping[str, float]
    held_out: Mapping[str, str]
    report: dict[str, Any]


def judge(
    votes: Votes,
    options: RaterOptions,
    weighting: Weighting,
    true_ceiling: Estimate | None,
    contradicted: Mapping[str, int] = MappingProxyType({}),
) -> Judgement:
    """Deterministic. Raises ValueError where all votes would be held out.

    contradicted: rows of raters that are no votes, because another one of theirs says otherwise.
    """
    kept = votes.named & (votes.value != UNSURE)
    shared = agreement.patterns(votes.item[kept], votes.value[kept])
    found = _reliability(votes, kept)
    watched = habits.watch(votes, options)
    held_out = watched.held_out(votes.raters, options.reviewed)
    factors = _factors(votes, watched, found if weighting == "reliability" else None, held_out)
    report = {
        **_counts(votes, shared),
        "says": _says(votes, shared, found),
        "agreement": _agreements(votes, kept, shared),
        "ceiling": _ceilings(votes, kept, shared, true_ceiling),
        "weighting": weighting,
        "held_out": held_out,
        "flags": {
            flag: [name for name, of in zip(votes.raters, watched.flags, strict=True) if flag in of]
            for flag in sorted({flag for of in watched.flags for flag in of})
        },
        "contradicted": {name: contradicted[name] for name in sorted(contradicted) if not name.startswith(ANONYMOUS)},
        "table": _table(votes, watched, found, factors, held_out),
    }
    for told in report["table"]:
        refused = contradicted.get(told["rater"], 0)
        told["contradicted"] = refused / (told["votes"] + refused)
    return Judgement(factors, held_out, report)


def _reliability(votes: Votes, kept: NDArray[np.bool_]) -> Reliability | None:
    """None where decided votes on a comparison agree no more than chance would have it.

    There Dawid and Skene's likelihood is nearly flat, and its maximum takes some rater's noise for the truth.
    """
    decided = kept & (votes.value < TIE)
    agreed = agreement.alpha(agreement.patterns(votes.item[decided], votes.value[decided]), "nominal")
    if agreed is None or agreed.low is None or agreed.low <= 0:
        return None
    return dawid_skene(votes.item[kept], votes.rater[kept], votes.value[kept], len(votes.raters))


def _factors(votes: Votes, watched: Habits, found: Reliability | None, held_out: Mapping[str, str]) -> dict[str, float]:
    """Of reliability, a mean of 1 over the votes that a model can learn from; times the cap of whoever has too many."""
    used = np.array([name not in held_out for name in votes.raters], dtype=bool)
    signal = votes.value != UNSURE
    if signal.any() and not used[votes.rater[signal]].any():
        reasons = ", ".join(f"{name} ({why})" for name, why in held_out.items())
        raise ValueError(
            f"prepare: the votes of every rater are held out: {reasons}; where they are right, name them in "
            "prepare.raters.reviewed"
        )
    factors = np.where(used, watched.cap, 0.0)
    if found is not None:
        counted = signal & votes.named & used[votes.rater]
        weights = found.weights
        mean = weights[votes.rater[counted]].mean() if counted.any() else 0.0
        if mean > 0:
            factors = np.where(_named(votes), weights / mean, 1.0) * factors
    return {name: float(factor) for name, factor in zip(votes.raters, factors, strict=True) if factor != 1.0}


def _named(votes: Votes) -> NDArray[np.bool_]:
    named = np.zeros(len(votes.raters), dtype=bool)
    named[votes.rater[votes.named]] = True
    return named


def _counts(votes: Votes, shared: Patterns) -> dict[str, Any]:
    by_value = np.bincount(votes.value, minlength=NUM_CLASSES + 1)
    return {
        "votes": len(votes),
        "votes_with_rater": int(votes.named.sum()),
        "decided": int(by_value[FIRST] + by_value[SECOND]),
        "tie": int(by_value[TIE]),
        "both_bad": int(by_value[BOTH_BAD]),
        "unsure": int(by_value[UNSURE]),
        "raters": int(_named(votes).sum()),
        "comparisons_shared": shared.num_items,
    }


def _says(votes: Votes, shared: Patterns, found: Reliability | None) -> str:
    """What all of it amounts to, in a sentence."""
    if not len(votes):
        return "There are no votes."
    if not votes.named.any():
        return "No row names its rater, so nothing can be said of raters: neither agreement nor reliability."
    if not shared.num_items:
        return "No comparison was judged by two raters, so agreement and reliability cannot be known."
    said = f"{shared.num_items} comparisons were judged by two raters or more."
    if found is None:
        said += (
            " Their raters are not seen to agree more than by chance, so nothing can be said of each one's reliability."
        )
    return said


def _agreements(votes: Votes, kept: NDArray[np.bool_], shared: Patterns) -> dict[str, Any]:
    """Over all, and apart by domain and by rubric, as far as those are several."""
    found: dict[str, Any] = {"all": _agreement(shared)}
    for name, codes, names in (("domain", votes.domain, votes.domains), ("rubric", votes.rubric, votes.rubrics)):
        parts = {
            label or "none": _agreement(agreement.patterns(votes.item[chosen], votes.value[chosen]))
            for code, label in enumerate(names)
            if (chosen := kept & (codes == code)).any()
        }
        found[f"by_{name}"] = parts if len(parts) > 1 else {}
    return found


def _agreement(found: Patterns) -> dict[str, Any]:
    return {
        "alpha_nominal": agreement.alpha(found, "nominal"),
        "alpha_ordinal": agreement.alpha(found, "ordinal"),
        "raw": agreement.raw(found),
    }


def _ceilings(votes: Votes, kept: NDArray[np.bool_], shared: Patterns, true: Estimate | None) -> dict[str, Any]:
    implied = ceiling.from_agreement(shared, agreement.tie_share(votes.value[kept]))
    return {
        "agreement": implied[0] if implied else None,  # approximate
        "agreement_at_least": implied[1] if implied else None,
        "truth": true,
    }


def _table(
    votes: Votes, watched: Habits, found: Reliability | None, factors: Mapping[str, float], held_out: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row per rater with a name, by number of votes."""
    number = len(votes.raters)
    by_value = np.bincount(votes.rater.astype(np.int64) * (NUM_CLASSES + 1) + votes.value, minlength=5 * number)
    by_value = by_value.reshape(number, NUM_CLASSES + 1)
    opposed = _opposed(votes)
    rows = []
    for r in np.argsort(-by_value.sum(1), kind="stable"):
        if votes.raters[r].startswith(ANONYMOUS):
            continue
        n, first = int(watched.decided[r]), int(watched.picked_first[r])
        right = found is not None and found.votes[r] > 0
        rows.append(
            {
                "rater": votes.raters[r],
                "votes": int(by_value[r].sum()),
                "decided": n,
                **{value: int(by_value[r, code]) for code, value in enumerate(VALUES) if code >= TIE},
                "first": _share(first / n, n, watched.first_low[r], watched.first_high[r]) if n else None,
                "first_p": float(watched.first_p[r]),
                "median_seconds": float(watched.median_seconds[r]) if watched.long_timed[r] else None,
                "most_per_day": int(watched.most_per_day[r]),
                "largest_share": float(watched.largest_share[r]),
                "votes_shared": int(found.votes[r]) if found else 0,
                "opposed": opposed[r],
                "right": _share(found.right[r], int(found.votes[r]), found.low[r], found.high[r])
                if found and right
                else None,
                "weight": float(factors.get(votes.raters[r], 1.0)),
                "flags": list(watched.flags[r]),
                "held_out": held_out.get(votes.raters[r]),
            }
        )
    return rows


def _share(value: float, n: int, low: float, high: float) -> Estimate:
    return Estimate(float(value), n, float(low), float(high))


def _opposed(votes: Votes) -> list[float | None]:
    """Per rater, how often another rater of the same item decided the other way."""
    decided = votes.named & (votes.value < TIE)
    item, value, rater = votes.item[decided], votes.value[decided], votes.rater[decided]
    if not len(item):
        return [None] * len(votes.raters)
    counts = np.bincount(item * 2 + value, minlength=2 * (int(item.max()) + 1)).reshape(-1, 2)
    against, same = counts[item, 1 - value], counts[item, value] - 1
    number = len(votes.raters)
    against = np.bincount(rater, against, number)
    asked = against + np.bincount(rater, same, number)
    return [float(a / n) if n else None for a, n in zip(against, asked, strict=True)]
