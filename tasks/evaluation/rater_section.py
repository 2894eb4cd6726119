"""What the report says of the raters, from data/raters.json: agreement, ceilings, a row for each with a name."""

from collections.abc import Mapping
from typing import Any

from tasks.evaluation.labels import Cell, cell

MAX_ROWS = 40  # of the table; the file has all
FLAGS = {
    "position_bias": "picks by position",
    "speeder": "too fast for long texts",
    "rater_dominance": "much of a shard",
    "votes_per_day": "many votes a day",
}
GROUP_COLUMNS = ("Raters", "Votes", "Agree within", "Opposed by others", "Prefer the longer", "Than others")
COLUMNS = (
    *("Rater", "Votes", "Decided", "Tie", "Both bad", "Unsure", "First picked", "Seconds, long texts"),
    *("Opposed by others", "By themselves", "Right", "Weight", "Noticed"),
)


def build(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The section; None where nothing was told of raters."""
    if told is None:
        return None
    rows = [_row(row) for row in told["table"]]
    return {
        "says": told["says"],
        "weighting": told["weighting"],
        "counts": {name: told[name] for name in ("votes", "decided", "tie", "both_bad", "unsure", "raters")},
        "agreement": _agreement(told["agreement"]),
        "groups": _groups(told.get("groups") or {}),
        "group_columns": GROUP_COLUMNS,
        "columns": COLUMNS,
        "rows": rows[:MAX_ROWS],
        "more": max(0, len(rows) - MAX_ROWS),
    }


def ceilings(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """By the keys that labels.SCORES knows; of all stored comparisons, whichever model is held against them."""
    found = (told or {}).get("ceiling") or {}
    return {"ceiling_truth": found.get("truth"), "ceiling_agreement": found.get("agreement")}


def _agreement(told: Mapping[str, Any]) -> list[tuple[str, list[Cell | None]]]:
    parts = [("All", told["all"])]
    parts += [(f"Domain {name}", of) for name, of in told["by_domain"].items()]
    parts += [(f"Rubric {name}", of) for name, of in told["by_rubric"].items()]
    rows = [
        (name, [*(cell(of[key], "number") for key in ("alpha_nominal", "alpha_ordinal")), cell(of["raw"], "share")])
        for name, of in parts
    ]
    return [(name, cells) for name, cells in rows if any(cells)]


def _groups(told: Mapping[str, Any]) -> list[tuple[str, list[Cell | str | None]]]:
    """A row per group that raters count themselves to, and per topic of it."""
    rows = []
    for attribute, found in told.items():
        for value, group in found["groups"].items():
            parts = [(f"{attribute}: {value}", group)]
            parts += [(f"{attribute}: {value}, {topic}", of) for topic, of in group["by_topic"].items()]
            rows += [(name, _figures(of)) for name, of in parts]
        if found["hidden_raters"]:
            rows.append((f"{attribute}: {found['hidden_raters']} raters in groups too small to be shown", []))
    return rows


def _figures(group: Mapping[str, Any]) -> list[Cell | str | None]:
    return [
        str(group["raters"]),
        str(group["votes"]),
        cell(group["raw"], "share"),
        cell(group["opposed_by_others"], "share"),
        cell(group["prefers_longer"], "share"),
        cell(group["prefers_longer_difference"], "points"),
    ]


def _row(row: Mapping[str, Any]) -> list[str | Cell | None]:
    flags = ", ".join(FLAGS.get(flag, flag) for flag in row["flags"])
    seconds = row["median_seconds"]
    opposed = row["opposed"]
    return [
        row["rater"],
        *(str(row[key]) for key in ("votes", "decided", "tie", "both_bad", "unsure")),
        cell(row["first"], "share"),
        None if seconds is None else f"{seconds:.1f}",
        None if opposed is None else f"{100 * opposed:.0f}%",
        f"{100 * row['contradicted']:.1f}%",
        cell(row["right"], "share"),
        "held out" if row["held_out"] else f"{row['weight']:.2f}",
        flags,
    ]
