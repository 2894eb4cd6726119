"""validate: the data contract: raw data held against the suites of data/expectations, before anything is trained.

reads   data/raw, data/expectations, data/reports/ingest.json, data/releases.json
writes  data/contract.json: the suites that the data satisfied

Training depends on contract.json, which stays the same when other data satisfies the same suites; so validate and
prepare run side by side, and a fresh preference trains no new SFT policy. Data Docs go to data/runs/validate/data_docs:
they carry timestamps.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.adapters import expectations, stage
from tasks.adapters.expectations import Outcome
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation.statistics import wilson
from tasks.files import write_json
from tasks.preferences import bounds, implicit
from tasks.preferences.bounds import HoldOptions
from tasks.preferences.dialogue import check_prompt
from tasks.preferences.screen import RefusedError
from tasks.preferences.tables import arrow_batches, characters
from tasks.records import DATASETS, SIGNALS, content_hash, schema

if TYPE_CHECKING:
    from pandas import DataFrame

Columns = dict[str, Any]  # of one length


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
    write_json(data / "contract.json", {name: content_hash(params.suites / f"{name}.json") for name in DATASETS})
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

    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no parquet file; run the stage that writes it")
    columns = schema(DATASETS[dataset])
    parts = [pd.DataFrame(_derived(dataset, batch)) for batch in arrow_batches(paths, columns.names) if len(batch)]
    nothing = pa.RecordBatch.from_pylist([], columns)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(_derived(dataset, nothing))


def _derived(dataset: str, rows: pa.RecordBatch) -> Columns:
    prompts = rows["prompt"]
    turns = prompts.flatten()
    starts = prompts.offsets.to_numpy()
    chars = np.concatenate([[0], np.cumsum(characters(turns.field("content")))])
    return {
        **_of(rows, "id", "source", "cluster"),
        "num_messages": np.diff(starts).astype(np.int64),
        "roles_ok": _roles_ok(prompts, turns),
        "prompt_chars": np.diff(chars[starts - starts[0]]),
        **_DERIVED[dataset](rows),
    }


def _of(rows: pa.RecordBatch, *names: str) -> Columns:
    return {name: rows[name].to_pandas() for name in names}


def _roles_ok(prompts: pa.ListArray, turns: pa.StructArray) -> npt.NDArray[np.bool_]:
    """Whether a prompt is one. A user's single turn that holds a plain sign is; others are looked at one by one."""
    starts = prompts.offsets.to_numpy()
    says = _flags(pc.match_substring_regex(turns.field("content"), "[!-~]"))
    is_plain = np.append(says & _flags(pc.equal(turns.field("role"), "user")), False)
    found: npt.NDArray[np.bool_] = (np.diff(starts) == 1) & is_plain[starts[:-1] - starts[0]]
    for place in np.flatnonzero(~found).tolist():
        found[place] = _is_prompt(prompts[place].as_py())
    return found


def _is_prompt(prompt: list[Any]) -> bool:
    try:
        check_prompt(prompt)
    except RefusedError:
        return False
    return True


def _stripped(texts: pa.StringArray) -> npt.NDArray[np.int64]:
    """Characters without white space around them; Python is asked what that is where a plain sign does not say."""
    found = characters(texts)
    ends = [pc.utf8_slice_codeunits(texts, start, stop) for start, stop in ((0, 1), (-1, None))]
    is_plain = np.logical_and(*(_flags(pc.match_substring_regex(end, "[!-~]")) for end in ends))
    for place in np.flatnonzero(~is_plain).tolist():
        found[place] = len(texts[place].as_py().strip())
    return found


def _flags(values: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False)).astype(bool)


def _demonstration(rows: pa.RecordBatch) -> Columns:
    return {**_of(rows, "domain"), "reply_chars": _stripped(rows["reply"])}


def _preference(rows: pa.RecordBatch) -> Columns:
    is_a, is_b = (_flags(pc.equal(rows["choice"], side)) for side in ("a", "b"))
    longer = np.sign(characters(rows["reply_a"]) - characters(rows["reply_b"]))
    return {
        **_of(rows, "domain"),
        "reply_a_chars": _stripped(rows["reply_a"]),
        "reply_b_chars": _stripped(rows["reply_b"]),
        "replies_differ": _flags(pc.not_equal(rows["reply_a"], rows["reply_b"])),
        **_of(rows, "choice"),
        "prefers_a": np.where(is_a, 1.0, np.where(is_b, 0.0, 0.5)),
        "prefers_longer": np.where(is_a, 1 + longer, np.where(is_b, 1 - longer, 1)) / 2,
        **_of(rows, "confidence", "rater"),
    }


def _safety(rows: pa.RecordBatch) -> Columns:
    return _of(rows, "category", "expected")


def _prompt(rows: pa.RecordBatch) -> Columns:
    known = [verifier is None or _has_kind(verifier) for verifier in rows["verifier"].to_pylist()]
    return {**_of(rows, "domain"), "verifier_ok": known}


def _solution(rows: pa.RecordBatch) -> Columns:
    steps, labels, correct = (rows[name].to_pylist() for name in ("steps", "labels", "correct"))
    return {
        **_of(rows, "domain"),
        "num_steps": list(map(len, steps)),
        "shortest_step_chars": [min((len(step.strip()) for step in each), default=0) for each in steps],
        "steps_are_lines": [not any("\n" in step for step in each) for each in steps],
        "label_per_step": [len(each) == len(of_it) for each, of_it in zip(steps, labels, strict=True)],
        "says_something": [
            any(label is not None for label in (*of_it, right)) for of_it, right in zip(labels, correct, strict=True)
        ],
    }


def _feedback(rows: pa.RecordBatch) -> Columns:
    return {
        **_of(rows, "domain", "desirable", "signal", "noise", "weight", "rater"),
        "reply_chars": _stripped(rows["reply"]),
    }


def _has_kind(verifier: str) -> bool:
    try:
        found = json.loads(verifier)
    except json.JSONDecodeError:
        return False
    return isinstance(found, dict) and "kind" in found


_DERIVED: dict[str, Callable[[pa.RecordBatch], Columns]] = {
    "demonstrations": _demonstration,
    "preferences": _preference,
    "safety": _safety,
    "prompts": _prompt,
    "solutions": _solution,
    "feedback": _feedback,
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
