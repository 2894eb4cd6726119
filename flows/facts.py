"""What the tables and reports of a workspace say about its data: the ground for advice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import rows
from flows.costs import Plan
from tasks.rlhf.advice import Facts
from tasks.rlhf.passes import Lengths


def gather(plan: Plan) -> Facts:
    """Of the rows that are counted or guessed, and of the last run's measures where there are any."""
    evaluated, data = _metrics(plan.data, "evaluate"), plan.data
    prepared = rows.is_prepared(plan.document, data)  # what lies there may be made of other sources
    labels = _metrics(data, "prepare").get("labels") or {}
    win_rate = evaluated.get("win_rate") or {}
    return Facts(
        num_pairs=_to_train_on(plan.rows.pairs) - plan.rows.planted,
        num_judged=_to_train_on(plan.rows.feedback),
        test_share=plan.document["folds"]["test"],
        scored_share=_filled(data / "prepared/pairs/train", "scores") if prepared else 0.0,
        checked_share=_filled(data / "prepared/prompts/train", "verifier") if prepared else 0.0,
        tied_share=sum(labels.get(name, 0) for name in ("tie", "both_bad")) / max(1, sum(labels.values())),
        min_accuracy=plan.document["gate"]["min_reward_accuracy"],
        accuracy=_interval((evaluated.get("reward") or {}).get("accuracy")),
        ceiling=((evaluated.get("reward") or {}).get("ceiling") or {}).get("value"),
        win_rate=_interval(win_rate.get("gold") or win_rate.get("judge")),
        declined=(((evaluated.get("models") or {}).get("sft") or {}).get("declined_unsafe") or {}).get("low"),
    )


def _to_train_on(folds: Mapping[str, Lengths]) -> float:
    return sum(folds[fold].rows for fold in ("train", "judge", "dev") if fold in folds)


def _metrics(data: Path, name: str) -> dict[str, Any]:
    path = data / f"reports/{name}.json"
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get("metrics", {}) if path.is_file() else {}
    return metrics


def _filled(path: Path, column: str) -> float:
    """The share of a table's rows that have something in a column; 0 without the table or the column."""
    import pyarrow.parquet as pq

    from tasks.records import read_table

    first = next(path.glob("*.parquet"), None)
    if first is None or column not in pq.read_schema(first).names:
        return 0.0
    values = read_table(path, [column])[column]
    return float(1 - values.null_count / max(1, len(values)))


def _interval(estimate: Mapping[str, float] | None) -> tuple[float, float] | None:
    return (estimate["low"], estimate["high"]) if estimate else None
