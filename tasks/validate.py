"""validate: the data contract: raw data held against the suites of data/expectations, before anything is trained.

reads   data/raw, data/expectations, data/reports/ingest.json, data/releases.json
writes  data/contract.json: the suites that the data satisfied

Training depends on contract.json, which stays the same when other data satisfies the same suites; so validate and
prepare run side by side, and a fresh preference trains no new SFT policy. Data Docs go to data/runs/validate/data_docs:
they carry timestamps.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.adapters import expectations, stage
from tasks.adapters.expectations import Outcome
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation.statistics import wilson
from tasks.preferences import bounds, implicit
from tasks.preferences.bounds import HoldOptions
from tasks.preferences.dialogue import check_prompt
from tasks.preferences.screen import RefusedError
from tasks.preferences.tables import column_batches
from tasks.records import DATASETS, SIGNALS, content_hash

if TYPE_CHECKING:
    from pandas import DataFrame

Columns = dict[str, list[Any]]


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
    return {
        **{name: _summary(len(frames[name]), found) for name, found in outcomes.items()},
        "taxonomy": _taxonomy(outcomes),
        "holds": held,
        "implicit_feedback": _agreement(data / "raw/feedback"),
    }


def _agreement(folder: Path) -> dict[str, Any]:
    """How often each implicit signal says what explicit verdicts on the same reply say, and the noise that implies."""
    return {
        signal: {
            "n": n,
            "agreement": same / n,
            "interval": wilson(same / n, n),
            "estimated_noise": 1 - same / n,
            "assumed_noise": SIGNALS[signal],
        }
        for signal, (n, same) in implicit.agreement(folder).items()
    }


def _taxonomy(outcomes: Mapping[str, list[Outcome]]) -> list[dict[str, Any]]:
    """The cells of the task x failure-case taxonomy that the suites ask for, and how many rows each has."""
    return [
        {**outcome.quota, "rows": outcome.observed or 0, "covered": outcome.success}
        for found in outcomes.values()
        for outcome in found
        if outcome.quota is not None
    ]


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

    parts = [pd.DataFrame(_derived(dataset, columns)) for columns in column_batches(folder) if columns["id"]]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(_derived(dataset, _NOTHING))


def _derived(dataset: str, columns: Columns) -> Columns:
    prompts = columns["prompt"]
    return {
        **_of(columns, "id", "source", "cluster"),
        "num_messages": list(map(len, prompts)),
        "roles_ok": list(map(_roles_ok, prompts)),
        "prompt_chars": [sum(len(message["content"]) for message in prompt) for prompt in prompts],
        **_DERIVED[dataset](columns),
    }


def _of(columns: Columns, *names: str) -> Columns:
    return {name: columns[name] for name in names}


def _roles_ok(prompt: list[Any]) -> bool:
    try:
        check_prompt(prompt)
    except RefusedError:
        return False
    return True


def _stripped(texts: list[str]) -> list[int]:
    return [len(text.strip()) for text in texts]


def _demonstration(columns: Columns) -> Columns:
    return {**_of(columns, "domain"), "reply_chars": _stripped(columns["reply"])}


def _preference(columns: Columns) -> Columns:
    texts = list(zip(columns["reply_a"], columns["reply_b"], strict=True))
    return {
        **_of(columns, "domain"),
        "reply_a_chars": _stripped(columns["reply_a"]),
        "reply_b_chars": _stripped(columns["reply_b"]),
        "replies_differ": [a != b for a, b in texts],
        **_of(columns, "choice"),
        "prefers_a": [_PREFERS_A.get(choice, 0.5) for choice in columns["choice"]],
        "prefers_longer": [
            _prefers_longer(len(a), len(b), choice) for (a, b), choice in zip(texts, columns["choice"], strict=True)
        ],
        **_of(columns, "confidence", "rater"),
    }


_PREFERS_A = {"a": 1.0, "b": 0.0}


def _prefers_longer(a: int, b: int, choice: str) -> float:
    return 0.5 if choice not in ("a", "b") or a == b else float((a > b) == (choice == "a"))


def _safety(columns: Columns) -> Columns:
    return _of(columns, "category", "expected")


def _prompt(columns: Columns) -> Columns:
    known = [verifier is None or _has_kind(verifier) for verifier in columns["verifier"]]
    return {**_of(columns, "domain"), "verifier_ok": known}


def _solution(columns: Columns) -> Columns:
    steps, labels, correct = columns["steps"], columns["labels"], columns["correct"]
    return {
        **_of(columns, "domain"),
        "num_steps": list(map(len, steps)),
        "shortest_step_chars": [min(_stripped(each), default=0) for each in steps],
        "steps_are_lines": [not any("\n" in step for step in each) for each in steps],
        "label_per_step": [len(each) == len(of_it) for each, of_it in zip(steps, labels, strict=True)],
        "says_something": [
            any(label is not None for label in (*of_it, right)) for of_it, right in zip(labels, correct, strict=True)
        ],
    }


def _feedback(columns: Columns) -> Columns:
    return {
        **_of(columns, "domain", "desirable", "signal", "noise", "weight", "rater"),
        "reply_chars": _stripped(columns["reply"]),
    }


def _has_kind(verifier: str) -> bool:
    try:
        found = json.loads(verifier)
    except json.JSONDecodeError:
        return False
    return isinstance(found, dict) and "kind" in found


_DERIVED: dict[str, Callable[[Columns], Columns]] = {
    "demonstrations": _demonstration,
    "preferences": _preference,
    "safety": _safety,
    "prompts": _prompt,
    "solutions": _solution,
    "feedback": _feedback,
}
_NOTHING: Columns = {field.name: [] for record in DATASETS.values() for field in fields(record)}


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
