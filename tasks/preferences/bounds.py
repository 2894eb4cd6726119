"""Dataset-level holds with fixed bounds: what is asked of data/raw as a whole, before anything is trained.

Columns are read batch by batch and never as texts in Python, so that a million rows take seconds.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from tasks.files import write_json
from tasks.hashes import content_hash
from tasks.preferences.hold import MIN_ROWS, Hold
from tasks.preferences.screen import REPEATS
from tasks.preferences.tables import arrow_batches, longer_won
from tasks.records import CHOICES, DATASETS

ROOTS = {"demonstrations": ("reply",), "preferences": ("reply_a", "reply_b"), "safety": ("reply",)}
Share = Annotated[float, Field(ge=0, le=1)]


class HoldOptions(BaseModel):
    """`validate.holds`: the dataset is held where one of these is exceeded."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    max_quarantine_rate: Annotated[Share, Field(description="of all input rows, repeated votes aside")] = 0.05
    max_side_share: Annotated[float, Field(ge=0.5, le=1, description="of decided rows that prefer one side")] = 0.8
    max_length_auc: Annotated[float, Field(ge=0.5, le=1, description="of knowing only which reply is longer")] = 0.75
    max_rater_share: Annotated[Share, Field(description="of all comparisons by one rater; 1: never held")] = 1.0
    decline_share: Annotated[
        tuple[Share, Share], Field(description="least and most of the safety set that is to be declined")
    ] = (0.2, 0.9)
    max_drop: Annotated[Share, Field(description="rows fewer than in the last registered version, as a share")] = 0.2
    max_move: Annotated[Share, Field(description="move of a choice's share or of the length AUC since then")] = 0.1


Facts = dict[str, Any]  # of one file of data/raw


def facts(dataset: str, path: Path) -> Facts:
    """What a file adds to the holds; plain values, so that they can be kept."""
    found: Facts = {}
    if dataset == "preferences":
        found |= _preferences(path)
    if dataset == "safety":
        found |= {"expected": dict(_counted(path, "expected"))}
    if dataset in ROOTS:
        found |= {"root": _root(path, ROOTS[dataset])}
    return found


def check(
    data: Path, options: HoldOptions, facts_of: Callable[[str, Path], Facts] = facts
) -> tuple[list[tuple[str, Hold]], dict[str, Any]]:
    """(dataset, hold) of everything that is out of bounds, and all that was measured."""
    known = {name: [facts_of(name, path) for path in sorted((data / "raw" / name).glob("*.parquet"))] for name in ROOTS}
    measured: dict[str, Any] = {
        "preferences": _of_all(known["preferences"]),
        "safety": _of_safety_set(known["safety"]),
        "quarantine_rate": quarantine_rate(data / "reports/ingest.json"),
    }
    holds = [*_of_preferences(measured["preferences"], options), *_of_safety(measured["safety"], options)]
    holds += _of_raters(known["preferences"], options)
    rate = measured["quarantine_rate"]
    if rate > options.max_quarantine_rate:
        text = "too many rows were refused; data/quarantine says which and why"
        holds.append(("preferences", Hold("quarantine_rate", rate, options.max_quarantine_rate, text)))
    return [*holds, *_of_roots(known)], measured


def quarantine_rate(report: Path) -> float:
    """The share of input rows that were refused, repeated votes aside; 0 without a report of ingest."""
    if not report.is_file():
        return 0.0
    found = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    serious = sum(n for reason, n in found["quarantined"].items() if reason != "total" and reason not in REPEATS)
    return float(serious / max(1, found["input"]))


def _preferences(path: Path) -> Facts:
    """How often each choice was made and each rater voted, and the pairs that the longer reply wins."""
    wins = sum(float(((1 + longer_won(batch)) / 2).sum()) for batch in _batches(path, ["choice", "reply_a", "reply_b"]))
    return {"choices": dict(_counted(path, "choice")), "raters": dict(_counted(path, "rater")), "wins": wins}


def _counted(path: Path, column: str) -> Counter[str]:
    return sum((Counter(batch[column].to_pylist()) for batch in _batches(path, [column])), Counter[str]())


def _of_all(files: Sequence[Facts]) -> dict[str, Any]:
    choices = sum((Counter(file["choices"]) for file in files), Counter[str]())
    wins = sum(file["wins"] for file in files)
    decided = choices["a"] + choices["b"]
    return {
        "rows": choices.total(),
        "decided": decided,
        "choices": {name: choices[name] / max(1, choices.total()) for name in CHOICES},
        "side_a": choices["a"] / decided if decided else 0.5,
        "length_auc": wins / decided if decided else 0.5,
    }


def _of_safety_set(files: Sequence[Facts]) -> dict[str, Any]:
    expected = sum((Counter(file["expected"]) for file in files), Counter[str]())
    return {"rows": expected.total(), "decline_share": expected["decline"] / max(1, expected.total())}


def _of_preferences(found: Mapping[str, Any], options: HoldOptions) -> list[tuple[str, Hold]]:
    if found["decided"] < MIN_ROWS:
        return []
    side, length = max(found["side_a"], 1 - found["side_a"]), max(found["length_auc"], 1 - found["length_auc"])
    holds = []
    if side == 1:
        gone = "a" if found["side_a"] == 0 else "b"
        holds.append(Hold("class_absent", 0.0, 0.0, f"no row prefers reply {gone}; draw the sides by chance"))
    elif side > options.max_side_share:
        holds.append(Hold("label_balance", side, options.max_side_share, "one side is preferred too often"))
    if length > options.max_length_auc:
        which = "longer" if found["length_auc"] > 0.5 else "shorter"
        text = f"knowing only which reply is {which} tells the preferred one"
        holds.append(Hold("length_auc", length, options.max_length_auc, text))
    return [("preferences", hold) for hold in holds]


def _of_raters(files: Sequence[Facts], options: HoldOptions) -> list[tuple[str, Hold]]:
    votes = sum((Counter(file["raters"]) for file in files), Counter[str]())
    total = votes.total()
    named = {rater: count for rater, count in votes.items() if not rater.startswith("source:")}
    rater, count = max(named.items(), key=lambda pair: pair[1], default=("", 0))
    if total < MIN_ROWS or count <= options.max_rater_share * total:
        return []
    text = f"{rater} gave {count} of {total} votes"
    return [("preferences", Hold("rater_dominance", count / total, options.max_rater_share, text))]


def _of_safety(found: Mapping[str, Any], options: HoldOptions) -> list[tuple[str, Hold]]:
    least, most = options.decline_share
    share = found["decline_share"]
    if found["rows"] < MIN_ROWS or least <= share <= most:
        return []
    bound = least if share < least else most
    text = "prompts to decline and harmless look-alikes to assist with are out of proportion"
    return [("safety", Hold("safety_ratio", share, bound, text))]


def _of_roots(known: Mapping[str, Sequence[Facts]]) -> list[tuple[str, Hold]]:
    """Two datasets with the very same replies are one file given twice."""
    roots: dict[tuple[int, int], str] = {}
    holds = []
    for dataset, files in known.items():
        root = sum(file["root"][0] for file in files), sum(file["root"][1] for file in files) % 2**64
        if root[0] and root in roots:
            text = f"{roots[root]} and {dataset} hold the same replies; name each dataset's own source"
            holds.append((dataset, Hold("shared_root", 1.0, 0.0, text)))
        roots.setdefault(root, dataset)
    return holds


def _root(path: Path, columns: tuple[str, ...]) -> list[int]:
    """[number of replies, sum of their hashes]: equal for equal replies in any order."""
    from pandas.util import hash_array

    count, total = 0, 0
    for batch in _batches(path, columns):
        for column in columns:
            texts = batch[column].drop_null().to_numpy(zero_copy_only=False)
            count += len(texts)
            total += int(hash_array(texts, categorize=False).sum(dtype=np.uint64)) if len(texts) else 0
    return [count, total % 2**64]


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return arrow_batches([path], columns)


def compare(now: Mapping[str, Any], before: Mapping[str, Any], options: HoldOptions) -> list[tuple[str, Hold]]:
    """What changed too much since another version; both are metrics of `validate`."""
    holds = []
    for dataset in DATASETS:
        rows, had = (document.get(dataset, {}).get("rows") for document in (now, before))
        if had and rows is not None and 1 - rows / had > options.max_drop:
            text = f"{rows} rows, the last registered version had {had}"
            holds.append((dataset, Hold("volume_drop", 1 - rows / had, options.max_drop, text)))
    here, there = (document.get("holds", {}).get("preferences", {}) for document in (now, before))
    if min(here.get("decided", 0), there.get("decided", 0)) >= MIN_ROWS:
        moves = {f"the share of the choice `{c}`": here["choices"][c] - there["choices"][c] for c in CHOICES}
        moves["the length AUC"] = here["length_auc"] - there["length_auc"]
        what = max(moves, key=lambda name: abs(moves[name]))
        if abs(moves[what]) > options.max_move:
            text = f"{what} moved by {moves[what]:+.3f} since the last registered version"
            holds.append(("preferences", Hold("shift_hold", abs(moves[what]), options.max_move, text)))
    return holds


def unreleased(
    holds: list[tuple[str, Hold]], hashes: Mapping[str, str], releases: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Hold]]:
    """The holds that no person released for exactly this data; `hashes` of data/raw/<dataset>."""
    known = {(each["hold"], each["dataset"], each["sha256"]) for each in releases}
    return [(dataset, hold) for dataset, hold in holds if (hold.name, dataset, hashes[dataset]) not in known]


def releases(data: Path) -> list[dict[str, Any]]:
    """What people released: `{hold, dataset, sha256, by, reason, at}` each. Raises ValueError for a torn file."""
    path = data / "releases.json"
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["releases"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a list of releases ({error!r}); restore it with git") from None


def release(data: Path, hold: str, dataset: str, by: str, reason: str) -> dict[str, str]:
    """Let the present data/raw/<dataset> pass this hold; who says so and why stands in data/releases.json.

    Raises ValueError where nobody answers for it or there is no such dataset.
    """
    for key, value in (("HOLD", hold), ("BY", by), ("REASON", reason)):
        if not value.strip():
            raise ValueError(f"{key}: empty; a release names the hold, the person and the reason")
    folder = data / "raw" / dataset
    if dataset not in DATASETS or not folder.is_dir():
        raise ValueError(f"DATASET={dataset}: no {folder}; it is one of {', '.join(DATASETS)}, made by `make run`")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"hold": hold, "dataset": dataset, "sha256": content_hash(folder), "by": by, "reason": reason, "at": at}
    note(data, made)
    return made


def note(data: Path, made: dict[str, str]) -> None:
    """Add a release to data/releases.json."""
    write_json(data / "releases.json", {"releases": [*releases(data), made]})


def sentence(dataset: str, hold: Hold) -> str:
    return f"{dataset}: {hold.line}; mend it, or `make release-hold HOLD={hold.name} DATASET={dataset} BY= REASON=`"
