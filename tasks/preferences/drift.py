"""How far the data of one card lies from that of another."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

COLUMNS = ("source", "domain", "category", "choice", "expected", "signal", "lengths")
NAMED = 5  # sources in a sentence


def since(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each dataset of a data card beside that of an earlier card (both are metrics of `card`).

    `bits`: how far counts by a column lie apart, where they do; `sources`: those with another number of rows, before
    and now; `length_auc`: how far it moved.
    """
    told = []
    for name, here in now["datasets"].items():
        there = before["datasets"].get(name, {"rows": 0})
        if not here["rows"] and not there["rows"]:
            continue
        bits = {column: round(divergence(_counts(there, column), _counts(here, column)), 4) for column in COLUMNS}
        was, now_is = _counts(there, "source"), _counts(here, "source")
        told.append(
            {
                "dataset": name,
                "rows_before": there["rows"],
                "rows": here["rows"],
                "sources": {
                    each: [was[each], now_is[each]] for each in sorted(was | now_is) if was[each] != now_is[each]
                },
                "bits": {column: apart for column, apart in bits.items() if apart},
            }
        )
        if name == "preferences":
            auc = [document["holds"].get(name, {}).get("length_auc", 0.5) for document in (now, before)]
            told[-1]["length_auc"] = round(auc[0] - auc[1], 4)
    return told


def _counts(dataset: Mapping[str, Any], column: str) -> Counter[str]:
    return Counter(dataset.get(column) or {})


def sentence(told: Mapping[str, Any]) -> str | None:
    """What `since` says of a dataset, for people; None where nothing moved."""
    moved = [f"{name} {before:,} -> {now:,}" for name, (before, now) in list(told["sources"].items())[:NAMED]]
    if (more := len(told["sources"]) - NAMED) > 0:
        moved.append(f"{more} other sources")
    if told["bits"]:
        moved.append("apart in bits: " + ", ".join(f"{column} {apart}" for column, apart in told["bits"].items()))
    if told.get("length_auc"):
        moved.append(f"length AUC {told['length_auc']:+.4f}")
    if told["rows"] == told["rows_before"] and not moved:
        return None
    return "; ".join([f"{told['rows']:,} rows, were {told['rows_before']:,}", *moved])


def divergence(one: Counter[Any], other: Counter[Any]) -> float:
    """Jensen-Shannon divergence of two counts, in bits: 0 alike, 1 with nothing in common. Lin 1991."""
    keys = sorted({*one, *other}, key=str)
    if not one.total() or not other.total():
        return 0.0
    p, q = (np.array([counts[key] for key in keys]) / counts.total() for counts in (one, other))
    middle = (p + q) / 2
    parts = [(x * np.log2(np.where(x > 0, x, 1) / middle)).sum() for x in (p, q)]
    return float(sum(parts) / 2)
