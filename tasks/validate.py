"""validate: the data contract: raw data held against the suites of data/expectations, before anything is trained.

reads   data/raw, data/expectations, data/reports/ingest.json, data/releases.json
writes  data/contract.json: the suites that the data satisfied

Training depends on contract.json, which stays the same when other data satisfies the same suites; so validate and
prepare run side by side, and a fresh preference trains no new SFT policy. Data Docs go to data/runs/validate/data_docs:
they carry timestamps.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.adapters import expectations, stage
from tasks.adapters.expectations import Outcome
from tasks.adapters.telemetry import FileTracker
from tasks.preferences import bounds
from tasks.preferences.bounds import HoldOptions
from tasks.preferences.dialogue import check_prompt
from tasks.preferences.screen import RefusedError
from tasks.preferences.tables import batches
from tasks.records import DATASETS, content_hash

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]


class Params(stage.Params):
    suites: Path
    holds: HoldOptions = HoldOptions()


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    docs = data / "runs" / "validate" / "data_docs"
    with tracker.phase("derive"):
        frames = {name: frame(name, data / "raw" / name) for name in DATASETS}
    with tracker.phase("check"):
        outcomes = expectations.check(frames, params.suites, docs)
    failures = [
        _sentence(name, outcome)
        for name, found in outcomes.items()
        for outcome in found
        if outcome.severity == "critical" and not outcome.success
    ]
    if failures:
        raise stage.ContractError(f"{'; '.join(failures)}; see {docs}/index.html")
    with tracker.phase("hold"):
        held = _held(data, params.holds)
    stage.write_json(data / "contract.json", {name: content_hash(params.suites / f"{name}.json") for name in DATASETS})
    return {name: _summary(len(frames[name]), found) for name, found in outcomes.items()} | {"holds": held}


def _held(data: Path, options: HoldOptions) -> dict[str, Any]:
    """What the holds measured, and what was released. Raises HeldError where a hold stands that nobody released."""
    holds, measured = bounds.check(data, options)
    hashes = {dataset: content_hash(data / "raw" / dataset) for dataset, _ in holds}
    standing = bounds.unreleased(holds, hashes, bounds.releases(data))
    if standing:
        raise stage.HeldError("; ".join(bounds.sentence(dataset, hold) for dataset, hold in standing))
    return measured | {"released": [f"{dataset}: {hold.line}" for dataset, hold in holds]}


def frame(dataset: str, folder: Path) -> "DataFrame":
    """What the expectations speak about: short columns derived from the rows, never the texts themselves."""
    import pandas as pd

    derive = _DERIVED[dataset]
    parts = [pd.DataFrame([_common(row) | derive(row) for row in batch]) for batch in batches(folder)]
    filled = [part for part in parts if len(part)]
    if not filled:
        names = [*_common(_BLANK), *derive(_BLANK)]
        return pd.DataFrame({name: [] for name in names})
    return pd.concat(filled, ignore_index=True)


def _common(row: Row) -> Row:
    return {
        "id": row["id"],
        "source": row["source"],
        "cluster": row["cluster"],
        "num_messages": len(row["prompt"]),
        "roles_ok": _roles_ok(row["prompt"]),
        "prompt_chars": sum(len(message["content"]) for message in row["prompt"]),
    }


def _roles_ok(prompt: list[Any]) -> bool:
    try:
        check_prompt(prompt)
    except RefusedError:
        return False
    return True


def _demonstration(row: Row) -> Row:
    return {"domain": row["domain"], "reply_chars": len(row["reply"].strip())}


def _preference(row: Row) -> Row:
    a, b, choice = len(row["reply_a"]), len(row["reply_b"]), row["choice"]
    return {
        "domain": row["domain"],
        "reply_a_chars": len(row["reply_a"].strip()),
        "reply_b_chars": len(row["reply_b"].strip()),
        "replies_differ": row["reply_a"] != row["reply_b"],
        "choice": choice,
        "prefers_a": {"a": 1.0, "b": 0.0}.get(choice, 0.5),
        "prefers_longer": 0.5 if choice not in ("a", "b") or a == b else float((a > b) == (choice == "a")),
        "confidence": row["confidence"],
        "rater": row["rater"],
    }


def _safety(row: Row) -> Row:
    return {"category": row["category"], "expected": row["expected"]}


def _prompt(row: Row) -> Row:
    return {"domain": row["domain"], "verifier_ok": row["verifier"] is None or _has_kind(row["verifier"])}


def _solution(row: Row) -> Row:
    labels = row["labels"]
    return {
        "domain": row["domain"],
        "num_steps": len(row["steps"]),
        "shortest_step_chars": min((len(step.strip()) for step in row["steps"]), default=0),
        "steps_are_lines": not any("\n" in step for step in row["steps"]),
        "label_per_step": len(labels) == len(row["steps"]),
        "says_something": any(label is not None for label in (*labels, row["correct"])),
    }


def _has_kind(verifier: str) -> bool:
    try:
        found = json.loads(verifier)
    except json.JSONDecodeError:
        return False
    return isinstance(found, dict) and "kind" in found


_DERIVED: dict[str, Callable[[Row], Row]] = {
    "demonstrations": _demonstration,
    "preferences": _preference,
    "safety": _safety,
    "prompts": _prompt,
    "solutions": _solution,
}
_BLANK: Row = {
    **dict.fromkeys(("id", "source", "cluster", "domain", "category", "reply", "reply_a", "reply_b"), ""),
    **dict.fromkeys(("choice", "rater", "expected"), ""),
    **{name: [] for name in ("prompt", "steps", "labels")},
    "correct": None,
    "verifier": None,
    "confidence": 1.0,
}


def _sentence(dataset: str, outcome: Outcome) -> str:
    if outcome.unexpected is None:
        return f"{dataset}: {outcome.expectation} fails: observed {outcome.observed}"
    examples = "; ".join(" ".join(f"{key}={value!r}" for key, value in example.items()) for example in outcome.examples)
    return f"{dataset}: {outcome.expectation} fails for {outcome.unexpected} of {outcome.rows} rows, e.g. {examples}"


def _summary(rows: int, outcomes: list[Outcome]) -> dict[str, Any]:
    summary: dict[str, Any] = {"rows": rows, "empty": rows == 0}
    for severity in expectations.SEVERITIES:
        of_it = [outcome for outcome in outcomes if outcome.severity == severity]
        passed = sum(outcome.success for outcome in of_it)
        summary[severity] = {"passed": passed, "failed": len(of_it) - passed}
    summary["warnings"] = {
        outcome.expectation: outcome.observed if outcome.unexpected is None else outcome.unexpected
        for outcome in outcomes
        if not outcome.success
    }
    return summary


STAGE = stage.Stage(
    "validate",
    Params,
    run,
    reads=(*(f"raw/{name}" for name in DATASETS), "reports/ingest.json", "releases.json"),
    writes=("contract.json",),
)

if __name__ == "__main__":
    stage.main(STAGE)
