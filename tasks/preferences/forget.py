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
from tasks.preferences import people, shards
from tasks.records import content_hash, prompt_key

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
    """Rows of the subject by accepted shard (its sha256)."""
    counted = {entry["sha256"]: _rows(path, subject) for path, entry in shards.accepted(data)}
    return {sha256: rows for sha256, rows in counted.items() if rows}


def in_held_shards(data: Path, subject: str) -> dict[str, int]:
    """The same of shards that wait for a person."""
    counted = {folder.name: _rows(folder / "rows.jsonl", subject) for folder in shards.held(data)}
    return {sha256: rows for sha256, rows in counted.items() if rows}


def _rows(path: Path, subject: str) -> int:
    with path.open(encoding="utf-8") as lines:
        return sum(holds(json.loads(line), subject) for line in lines)


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

    Why it is held stays, without figures and names: they were of all its rows. The new folder first, then the old one
    goes; a second call finishes what a crash left.
    """
    for sha256 in in_held_shards(data, subject):
        folder = data / "held" / sha256
        note = json.loads((folder / "hold.json").read_text(encoding="utf-8"))
        with (folder / "rows.jsonl").open(encoding="utf-8") as lines:
            kept = [line for line in lines if not holds(json.loads(line), subject)]
        if kept:
            rest = data / "runs/shards/rest"
            shutil.rmtree(rest, ignore_errors=True)
            rest.mkdir(parents=True)
            new = _write(rest, kept)
            (rest / f"{new}.jsonl").replace(rest / "rows.jsonl")
            entry = {**note["entry"], "rows": len(kept), "sha256": new}
            write_json(rest / "hold.json", {"entry": entry, "holds": _nameless(note["holds"]), "measured": {}})
            if not (data / "held" / new).exists():
                rest.replace(data / "held" / new)
        shutil.rmtree(folder)


def drop_from_shards(data: Path, subject: str) -> None:
    """Write every shard that holds the subject again, without those rows; one that is then empty goes.

    New files first, then the index, then the old files: a crash in between leaves a whole index, and a second call
    finishes the work.
    """
    held, entries = in_shards(data, subject), []
    for path, entry in shards.accepted(data):
        if entry["sha256"] in held:
            with path.open(encoding="utf-8") as lines:
                kept = [line for line in lines if not holds(json.loads(line), subject)]
            if not kept:
                continue
            entry = {**entry, "rows": len(kept), "sha256": _write(path.parent, kept)}
            if "released" in entry:
                entry["released"] = {**entry["released"], "holds": _nameless(entry["released"]["holds"])}
        if entry not in entries:
            entries.append(entry)
    if held:
        write_json(data / "shards" / "index.json", {"shards": entries})
    for sha256 in held:
        (data / "shards" / "rows" / f"{sha256}.jsonl").unlink(missing_ok=True)


def _nameless(holds: list[str]) -> list[str]:
    """Which holds they were, without the raters and words that they tell of."""
    names = dict.fromkeys(line.partition(":")[0] for line in holds)
    return [f"{name}: found before rows of somebody who opted out were taken out" for name in names]


def _write(folder: Path, lines: list[str]) -> str:
    temporary = folder / f".kept.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    sha256 = content_hash(temporary)
    temporary.replace(folder / f"{sha256}.jsonl")
    return sha256
