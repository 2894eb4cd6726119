"""validate: the data contract: raw data held against the suites of data/expectations, before anything is trained.

reads   data/raw, data/expectations, data/reports/ingest.json, data/releases.json
writes  data/contract.json: the suites that the data satisfied

Training depends on contract.json, which stays the same when other data satisfies the same suites; so validate and
prepare run side by side, and a fresh preference trains no new SFT policy. Data Docs go to data/runs/validate/data_docs:
they carry timestamps.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.adapters import expectations, stage
from tasks.adapters.expectations import Outcome
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation.statistics import wilson
from tasks.files import write_json
from tasks.hashes import content_hash
from tasks.preferences import bounds, implicit
from tasks.preferences.bounds import HoldOptions
from tasks.preferences.dialogue import check_prompt
from tasks.preferences.screen import RefusedError, excerpt, redact
from tasks.preferences.tables import arrow_batches, characters, parquet_files
from tasks.records import DATASETS, SIGNALS, schema
from tasks.shelf import Shelf, code_version

if TYPE_CHECKING:
    from pandas import DataFrame

Columns = dict[str, Any]  # of one length
_HASH = re.compile("(?:id-)?[0-9a-f]{16}")  # an id that is none of somebody's own
CODE = ("validate", "preferences", "records")  # what derives them, and the libraries that do
LIBRARIES = ("pyarrow", "pandas", "numpy")


class Params(stage.Params):
    suites: Path
    holds: HoldOptions = HoldOptions()


@dataclass(frozen=True)
class Kept:
    """What the rows of each file come to, kept under a hash of the file, so that a fresh shard costs what it costs."""

    shelf: Shelf

    def key(self, dataset: str, path: Path) -> str:
        return self.shelf.key(dataset, path)

    def columns(self, dataset: str, path: Path) -> "DataFrame":
        found: DataFrame = pq.read_table(self._of(dataset, path) / "columns.parquet", partitioning=None).to_pandas()
        return found

    def facts(self, dataset: str, path: Path) -> bounds.Facts:
        found: bounds.Facts = json.loads((self._of(dataset, path) / "facts.json").read_text(encoding="utf-8"))
        return found

    def _of(self, dataset: str, path: Path) -> Path:
        return self.shelf.get(self.key(dataset, path), partial(self._fill, dataset, path))

    @staticmethod
    def _fill(dataset: str, path: Path, folder: Path) -> None:
        pq.write_table(pa.Table.from_pandas(columns(dataset, path)), folder / "columns.parquet")
        write_json(folder / "facts.json", bounds.facts(dataset, path))


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    docs = data / "runs" / "validate" / "data_docs"
    kept = Kept(Shelf(data / "runs/validate/kept", code_version(*CODE, libraries=LIBRARIES)))
    with tracker.phase("derive"):
        for name in DATASETS:
            for path in parquet_files(data / "raw" / name):
                kept.key(name, path)
        kept.shelf.forget()  # what was kept of other data, before there is more
        frames = {name: frame(name, data / "raw" / name, kept.columns) for name in DATASETS}
    with tracker.phase("check"):
        outcomes = expectations.check(frames, params.suites, docs)
    failures = [
        _sentence(data / "raw" / name, outcome)
        for name, found in outcomes.items()
        for outcome in found
        if outcome.severity == "critical" and not outcome.success
    ]
    if not len(frames["preferences"]) and not len(frames["feedback"]):
        failures.append("preferences, feedback: no row in either: nothing says which reply is better; give a source")
    if failures:
        raise stage.ContractError(f"{'; '.join(failures)}; see {docs}/index.html")
    with tracker.phase("hold"):
        held = _held(data, params.holds, kept)
    write_json(data / "contract.json", {name: content_hash(params.suites / f"{name}.json") for name in DATASETS})
    return {
        **{name: _summary(len(frames[name]), found) for name, found in outcomes.items()},
        "taxonomy": _taxonomy(outcomes),
        "holds": held,
        "implicit_feedback": _agreement(data / "raw"),
    }


def _agreement(raw: Path) -> dict[str, Any]:
    """How often each implicit signal says what explicit verdicts on the same reply say, and the noise that implies;
    apart from that, what comparisons say, in which the reply won or lost.
    """
    verdicts = implicit.agreement(raw / "feedback")
    comparisons = implicit.agreement_with_comparisons(raw / "feedback", raw / "preferences")
    found: dict[str, Any] = {}
    for signal, noise in SIGNALS.items():
        if signal in verdicts:
            told = _share(*verdicts[signal])
            found[signal] = told | {"estimated_noise": 1 - told["agreement"], "assumed_noise": noise}
        if signal in comparisons:
            found.setdefault(signal, {})["comparisons"] = _share(*comparisons[signal])
    return found


def _share(n: int, same: int) -> dict[str, Any]:
    return {"n": n, "agreement": same / n, "interval": wilson(same / n, n)}


def _taxonomy(outcomes: Mapping[str, list[Outcome]]) -> list[dict[str, Any]]:
    """The cells of the task x failure-case taxonomy that the suites ask for, and how many rows each has."""
    return [
        {**outcome.quota, "rows": outcome.observed or 0, "covered": outcome.success}
        for found in outcomes.values()
        for outcome in found
        if outcome.quota is not None
    ]


def _held(data: Path, options: HoldOptions, kept: Kept) -> dict[str, Any]:
    """What the holds measured, and what was released. Raises HeldError where a hold stands that nobody released."""
    holds, measured = bounds.check(data, options, kept.facts)
    hashes = {dataset: content_hash(data / "raw" / dataset) for dataset, _ in holds}
    standing = bounds.unreleased(holds, hashes, bounds.releases(data))
    if standing:
        raise stage.HeldError("; ".join(bounds.sentence(dataset, hold) for dataset, hold in standing))
    return measured | {"released": [f"{dataset}: {hold.line}" for dataset, hold in holds]}


def columns(dataset: str, path: Path) -> "DataFrame":
    """What the expectations speak about: short columns derived from the rows of a file, never the texts themselves."""
    import pandas as pd

    names = schema(DATASETS[dataset])
    parts = [pd.DataFrame(_derived(dataset, batch)) for batch in arrow_batches([path], names.names) if len(batch)]
    nothing = pa.RecordBatch.from_pylist([], names)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(_derived(dataset, nothing))


def frame(dataset: str, folder: Path, columns_of: Callable[[str, Path], "DataFrame"] = columns) -> "DataFrame":
    """The columns of all files of a dataset."""
    import pandas as pd

    parts = [columns_of(dataset, path) for path in parquet_files(folder)]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


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


def _sentence(folder: Path, outcome: Outcome) -> str:
    """A failed expectation in a line. Texts in it are masked as in the quarantine; a row is told by its place."""
    failed = f"{folder.name}: {outcome.expectation} fails"
    if outcome.unexpected is None:
        return f"{failed}: observed {_shown(outcome.observed)}"
    rows = _excerpts({example["row"] for example in outcome.examples}, folder)
    examples = [
        " ".join([*(f"{key}={_shown(value)}" for key, value in each.items() if key != "row"), rows[each["row"]]])
        for each in outcome.examples
    ]
    return f"{failed} for {outcome.unexpected} of {outcome.rows} rows, e.g. {'; '.join(examples)}"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return repr(text if _HASH.fullmatch(text) else redact(text))


def _excerpts(wanted: Collection[int], folder: Path) -> dict[int, str]:
    """Where rows are, by their number in the dataset from 1, and the masked head of what they say."""
    found: dict[int, str] = {}
    before = 0
    for path in parquet_files(folder):
        first = before
        for batch in arrow_batches([path], schema(DATASETS[folder.name]).names):
            for row in (row for row in wanted if before < row <= before + len(batch)):
                (said,) = batch.slice(row - before - 1, 1).to_pylist()
                found[row] = f"in row {row - first} of {path.name}: {excerpt(said)}"
            before += len(batch)
    return found


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
