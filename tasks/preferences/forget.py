"""Where the rows of somebody who opted out are, and shards, accepted or held, without them.

A subject is a rater, the owner of a prompt, or a prompt by its key (`id` in data/raw/prompts). A person is found by
their name in every form that a row may have it in (tasks/preferences/people.py).
"""

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.files import write_json
from tasks.hashes import content_hash
from tasks.preferences import people, refused, shards
from tasks.records import prompt_key

_COLUMNS = ("id", "rater", "owner", "prompt")


def holds(row: Mapping[str, Any], subject: str) -> bool:
    if people.is_of(subject, row.get("rater")) or people.is_of(subject, row.get("owner")):
        return True
    return isinstance(row.get("prompt"), list) and subject == prompt_key(row["prompt"])


def count(tables: Iterable[Path], subject: str, ids: Collection[str] = ()) -> dict[str, int]:
    """Rows of the subject by table (its file's name), without those that have none.

    `ids`: of rows that are known to be theirs; what is made of those names no owner any more.
    """
    found: dict[str, int] = {}
    for path in tables:
        if rows := sum(row.get("id") in ids or holds(row, subject) for row in _told(path)):
            found[path.stem] = found.get(path.stem, 0) + rows
    return found


def ids(tables: Iterable[Path], subject: str) -> set[str]:
    """Of the subject's rows."""
    return {row["id"] for path in tables for row in _told(path) if holds(row, subject)}


def _told(path: Path) -> Iterator[dict[str, Any]]:
    """The columns that tell whose a row is; none where the table has none, or is torn: nobody can read it."""
    try:
        with pq.ParquetFile(path) as table:
            columns = [name for name in _COLUMNS if name in table.schema_arrow.names]
            for batch in table.iter_batches(columns=columns) if columns else ():
                yield from batch.to_pylist()
    except pa.ArrowInvalid:
        return


def in_shards(data: Path, subject: str) -> dict[str, int]:
    """Rows of the subject by accepted shard (its sha256), with those that were refused and may be theirs."""
    counted = {
        entry["sha256"]: _rows(path, subject) + _refused_rows(path.parent, entry, subject)
        for path, entry in shards.accepted(data)
    }
    return {sha256: rows for sha256, rows in counted.items() if rows}


def in_held_shards(data: Path, subject: str) -> dict[str, int]:
    """The same of shards that wait for a person."""
    counted = {
        folder.name: _rows(folder / "rows.jsonl", subject) + _refused_rows(folder, _note(folder)["entry"], subject)
        for folder in shards.held(data)
    }
    return {sha256: rows for sha256, rows in counted.items() if rows}


def _rows(path: Path, subject: str) -> int:
    with path.open(encoding="utf-8") as lines:
        return sum(holds(json.loads(line), subject) for line in lines)


def _refused_rows(folder: Path, entry: Mapping[str, Any], subject: str) -> int:
    """How many refused rows of a shard may be the subject's; whose they are, nobody read for sure."""
    lost = entry.get("refused", [])
    return sum(
        _may_be(kept, each, subject) for each in lost for kept in refused.lines(folder / shards.refused_name(each))
    )


def _may_be(kept: dict[str, Any], lost: Mapping[str, Any], subject: str) -> bool:
    """Whether a refused row may be the subject's, whom it may name in any form, or by the key of its prompt."""
    names = refused.names(kept, lost["format"])
    return subject in names or any(people.is_of(subject, name) for name in names)


def _note(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "hold.json").read_text(encoding="utf-8")))


def rows_of(data: Path) -> Iterator[dict[str, Any]]:
    """Every row that is here with its owner: of data/raw, of accepted and of held shards."""
    for path in sorted((data / "raw").glob("*/*.parquet")):
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    for path in (*(path for path, _ in shards.accepted(data)), *(each / "rows.jsonl" for each in shards.held(data))):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def drop_from_held(data: Path, subject: str) -> None:
    """Write every held shard that holds the subject again, without those rows; one that is then empty goes.

    Why it is held stays, without figures and names: they were of all its rows. New files first, then the old ones
    go; a second call finishes what a crash left.
    """
    for sha256 in in_held_shards(data, subject):
        folder, rest = data / "held" / sha256, data / "runs/shards/rest"
        note = _note(folder)
        shutil.rmtree(rest, ignore_errors=True)
        rest.mkdir(parents=True)
        entry = _without(folder / "rows.jsonl", rest, note["entry"], subject)
        if entry is None:
            shutil.rmtree(folder)
            continue
        (rest / f"{entry['sha256']}.jsonl").replace(rest / "rows.jsonl")
        write_json(rest / "hold.json", {"entry": entry, "holds": _nameless(note["holds"]), "measured": {}})
        new = data / "held" / entry["sha256"]
        if not new.exists():
            rest.replace(new)
        elif new == folder:  # only of what was refused something is gone
            for name in (*(path.name for path in rest.glob("*.refused.jsonl")), "hold.json"):
                (rest / name).replace(folder / name)
            for path in folder.glob("*.refused.jsonl"):
                if path.name not in shards.names(entry):
                    path.unlink()
        if new != folder:
            shutil.rmtree(folder)


def drop_from_shards(data: Path, subject: str) -> None:
    """Write every shard that holds the subject again, without those rows; one that is then empty goes, with all of it.

    New files first, then the index, then the old files: a crash in between leaves a whole index, and a second call
    finishes the work.
    """
    held, entries, old = in_shards(data, subject), [], set()
    for path, entry in shards.accepted(data):
        if entry["sha256"] in held:
            old |= shards.names(entry)
            rest = _without(path, path.parent, entry, subject)
            if rest is None:
                continue
            entry = rest
            if "released" in entry:
                entry["released"] = {**entry["released"], "holds": _nameless(entry["released"]["holds"])}
        if entry not in entries:
            entries.append(entry)
    if held:
        write_json(data / "shards" / "index.json", {"shards": entries})
    for name in old.difference(*map(shards.names, entries)):
        (data / "shards" / "rows" / name).unlink(missing_ok=True)


def _without(path: Path, target: Path, entry: Mapping[str, Any], subject: str) -> dict[str, Any] | None:
    """Write the rows of a shard, and those refused of it, to `target` without the subject's; None where none is left.

    What was refused lies beside `path`.
    """
    with path.open(encoding="utf-8") as lines:
        kept = [line for line in lines if not holds(json.loads(line), subject)]
    if not kept:
        return None
    lost = []
    for each in entry.get("refused", []):
        others = [
            row for row in refused.lines(path.parent / shards.refused_name(each)) if not _may_be(row, each, subject)
        ]
        if others:
            texts = [refused.line(row) for row in others]
            lost.append({**each, "rows": len(others), "sha256": _write(target, texts, ".refused.jsonl")})
    rest = {key: value for key, value in entry.items() if key != "refused"} | ({"refused": lost} if lost else {})
    return {**rest, "rows": len(kept), "sha256": _write(target, kept)}


def _nameless(holds: list[str]) -> list[str]:
    """Which holds they were, without the raters and words that they tell of."""
    names = dict.fromkeys(line.partition(":")[0] for line in holds)
    return [f"{name}: found before rows of somebody who opted out were taken out" for name in names]


def _write(folder: Path, lines: list[str], suffix: str = ".jsonl") -> str:
    temporary = folder / f".kept.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    sha256 = content_hash(temporary)
    temporary.replace(folder / f"{sha256}{suffix}")
    return sha256
