"""What is kept of earlier runs changes what a run costs, never what it gives."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.adapters.telemetry import FileTracker
from tasks.hashes import content_hash
from tasks.preferences import shards, sources, staging
from tasks.records import read_table

Row = dict[str, Any]


def votes(*numbers: int, **changes: Any) -> list[Row]:
    shared = {"reply_a": "Yes.", "reply_b": "No.", "choice": "a", "rater": "ann"}
    return [{**shared, "prompt": f"Question {number}", **changes} for number in numbers]


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 30 votes in parts of 6, of which one repeats and two contradict each other."""
    monkeypatch.setattr(staging, "GROUP", 3)
    monkeypatch.setattr(staging, "PART", 2)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/held.jsonl").write_text(lines(votes(300)))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/index.json").write_text('{"shards": []}')
    bad = [*votes(3), *votes(4, choice="b"), *votes(90, choice="c")]
    (tmp_path / "inputs/a.jsonl").write_text(lines([*votes(*range(27)), *bad]))
    return tmp_path


def run(data: Path, **params: Any) -> Mapping[str, Any]:
    world = {"num_demonstrations": 60, "num_preferences": 40, "num_raters": 3, "length_bias": 0.0}
    document = {"seed": 0, "world": world, "sources": [{"kind": "file", "path": "a.jsonl"}], "max_quarantine_rate": 0.5}
    document |= {"folds": {"judge": 0.25, "dev": 0.05, "test": 0.18, "sealed": 0.05}, "near_jaccard": 0.8}
    document |= {"held_out": ["held.jsonl"]}
    with closing(FileTracker("ingest", data)) as tracker:
        return ingest.run(ingest.Params.model_validate(document | params), data, tracker)


def add(data: Path, rows: list[Row]) -> None:
    (data / "fresh.jsonl").write_text(lines(rows))
    shards.accept(data / "fresh.jsonl", data, 1.0)


def outputs(data: Path) -> tuple[str, str]:
    return content_hash(data / "raw"), content_hash(data / "quarantine")


def from_nothing(data: Path, metrics: Mapping[str, Any], **params: Any) -> None:
    """The same comes out where nothing is kept."""
    found = outputs(data)
    shutil.rmtree(data / "runs/ingest/kept")
    assert run(data, **params) == metrics
    assert outputs(data) == found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many rows were judged, by source."""
    counts: Counter[str] = Counter()
    accept = sources._accept

    def counted(row: Any, source: Any, *others: Any) -> Any:
        counts[source.name] += 1
        return accept(row, source, *others)

    monkeypatch.setattr(sources, "_accept", counted)
    return counts


def test_a_fresh_shard_is_judged_alone_and_against_all(data: Path, read: Counter[str]) -> None:
    before = run(data)
    assert before["quarantined"] == {"total": 4, "exact_duplicate": 1, "self_contradiction": 2, "bad_label": 1}
    untouched = {path.name: path.stat().st_ino for path in (data / "raw/preferences").iterdir()}
    assert len(untouched) == 5
    read.clear()
    # One that repeats, two that contradict (the first of the file, and one refused already), an old prompt, a new one.
    fresh = [*votes(5), *votes(0, 4, choice="b"), *votes(6, rater="bob"), *votes(200)]
    add(data, fresh)
    read.clear()
    metrics = run(data)
    assert list(read.values()) == [5]
    assert metrics["quarantined"]["exact_duplicate"] == 2
    assert metrics["quarantined"]["self_contradiction"] == 5
    assert metrics["rows"] == {
        **before["rows"],
        "preferences": 27 - 1 - 1 + 2,
        "prompts": before["rows"]["prompts"] + 1,
    }
    after = {path.name: path.stat().st_ino for path in (data / "raw/preferences").iterdir()}
    assert [name for name, inode in untouched.items() if after[name] != inode] == ["a.parquet"]
    from_nothing(data, metrics)


LEAK = (
    "What should a careful person do first when the old kettle in the kitchen starts to leak boiling water over the "
    "floor late at night and nobody else is at home to help with it"
)


def test_near_texts_are_known_from_run_to_run(data: Path) -> None:
    """A near copy of an old vote, what was held out before it, and a cluster that a later shard is near."""
    replies = {"reply_a": "Switch it off at the wall and let it cool.", "reply_b": "Leave it as it is and go to bed."}
    with (data / "inputs/a.jsonl").open("a") as file:
        file.write(lines(votes(1, prompt=LEAK, **replies)))
    run(data)
    add(data, [*votes(1, prompt=LEAK + " tonight", **replies), *votes(300), *votes(201)])
    metrics = run(data)
    assert metrics["quarantined"]["near_duplicate"] == 1
    assert metrics["quarantined"]["contamination"] == 1
    assert metrics["held_out"] == {"held.jsonl": {"rows": 1, "unreadable": 0}}
    add(data, votes(1, prompt=LEAK + " at all", rater="bob", **replies))
    metrics = run(data)
    clusters = {row["prompt"][0]["content"]: row["cluster"] for row in read_table(data / "raw/preferences").to_pylist()}
    assert clusters[LEAK] == clusters[LEAK + " at all"]
    from_nothing(data, metrics)


def test_shards_one_after_the_other_and_back(data: Path, read: Counter[str]) -> None:
    run(data)
    add(data, votes(1, choice="b"))
    second = run(data)
    first_index = (data / "shards/index.json").read_text()
    add(data, votes(1, 2, choice="tie"))
    third = run(data)
    from_nothing(data, third)
    run(data)
    read.clear()
    assert run(data) == third  # nothing new
    assert not read
    (data / "shards/index.json").write_text(first_index)
    assert run(data) == second
    from_nothing(data, second)


@pytest.mark.parametrize("change", ["file", "params", "code", "kept", "index"])
def test_what_a_verdict_depends_on_is_asked(
    data: Path, read: Counter[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data)
    read.clear()
    params: dict[str, Any] = {}
    kept_folder = next((data / "runs/ingest/kept").iterdir())
    if change == "file":
        (data / "inputs/a.jsonl").write_text(lines(votes(*range(28))))
    elif change == "params":
        params = {"max_quarantine_rate": 0.6}
    elif change == "code":
        monkeypatch.setattr(ingest, "code_version", lambda *_: "other")
    elif change == "kept":
        with next(kept_folder.glob("preferences/*")).open("ab") as file:
            file.write(b"x")
    else:
        shutil.rmtree(kept_folder / "index")
    metrics = run(data, **params)
    assert read["a"] >= 28
    from_nothing(data, metrics, **params)
