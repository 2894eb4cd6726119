"""Shards: fresh data taken into the versioned data one file at a time.

A shard is screened outside `data/shards`; one that is refused leaves no trace and cannot block a later run.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.preferences import canonical
from tasks.preferences.duplicates import Index
from tasks.preferences.screen import BadFileError
from tasks.preferences.sources import Source, open_rows, read
from tasks.preferences.staging import Staging
from tasks.records import DATASETS, content_hash

NAME = "fresh"  # the source of rows that name none, whatever their file was called: same rows, same hash


@dataclass(frozen=True)
class Accepted:
    dataset: str
    sha256: str  # of data/shards/rows/<sha256>.jsonl
    rows: int
    is_new: bool  # False where the same content was accepted before: nothing has changed


def accept(path: Path, data: Path, max_quarantine_rate: float = 0.05) -> Accepted:
    """Screen a file of any known format and add it to the index of shards.

    Raises ValueError or FileNotFoundError, with one clear line, where the file is refused.
    """
    work = data / "runs" / "shards"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        dataset, rows, canonical_file = _convert(path, Path(folder) / "staged", max_quarantine_rate)
        sha256 = content_hash(canonical_file)
        kept = data / "shards" / "rows" / f"{sha256}.jsonl"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            canonical_file.replace(kept)
            _sync(kept.parent)
    is_new = _index(data / "shards" / "index.json", {"dataset": dataset, "rows": rows, "sha256": sha256})
    return Accepted(dataset, sha256, rows, is_new)


def accepted(data: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The accepted shards in order of arrival. Raises ValueError where one is missing or was changed."""
    index = data / "shards" / "index.json"
    found = []
    for entry in _read_index(index):
        path = data / "shards" / "rows" / f"{entry['sha256']}.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: listed in {index} but missing; fetch it with `dvc pull`")
        if content_hash(path) != entry["sha256"]:
            raise BadFileError(path, "hash_mismatch", "changed since it was accepted; restore it with `dvc checkout`")
        found.append((path, entry))
    return found


def name_of(entry: Mapping[str, Any]) -> str:
    return f"shard-{entry['sha256'][:12]}"


def source(path: Path, entry: Mapping[str, Any]) -> Source:
    """An accepted shard, to be read again; nothing in it can stop a run any more."""
    warnings: Counter[str] = Counter()
    return Source(
        name=name_of(entry),
        where=path,
        rows=open_rows(path, warnings),
        warnings=warnings,
        format=f"canonical_{entry['dataset']}",
        rows_source=NAME,
    )


def _convert(path: Path, folder: Path, max_quarantine_rate: float) -> tuple[str, int, Path]:
    """Screen a file; (dataset, number of rows, its canonical JSON Lines)."""
    warnings: Counter[str] = Counter()
    staging = Staging(folder)
    fresh = Source(
        name=NAME,
        where=path,
        rows=open_rows(path, warnings),
        warnings=warnings,
        max_quarantine_rate=max_quarantine_rate,
        derive=False,
    )
    with closing(staging):
        tally = read(fresh, staging, Index())
    datasets = [dataset for dataset in DATASETS if tally.records[dataset]]
    if len(datasets) != 1:
        what = f"rows for {' and '.join(datasets)}" if datasets else "no row that is new"
        raise BadFileError(path, "wrong_format", f"a shard feeds one dataset, this one holds {what}")
    target = folder / "rows.jsonl"
    with target.open("w", encoding="utf-8") as file:
        for part in staging.parts(datasets[0]):
            with pq.ParquetFile(part) as rows:
                for batch in rows.iter_batches():
                    for row in batch.to_pylist():
                        file.write(canonical.to_json(DATASETS[datasets[0]](**row)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return datasets[0], tally.records[datasets[0]], target


def _read_index(index: Path) -> list[dict[str, Any]]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["shards"]
        return [{"dataset": s["dataset"], "rows": s["rows"], "sha256": s["sha256"]} for s in shards]
    except FileNotFoundError:
        return []
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{index}: not an index of shards ({error!r}); restore it with git") from None


def _index(index: Path, entry: dict[str, Any]) -> bool:
    """Add an entry, atomically; False where it is there already."""
    shards = _read_index(index)
    if any(known["sha256"] == entry["sha256"] for known in shards):
        return False
    temporary = index.with_name(f".{index.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"shards": [*shards, entry]}, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(index)
    _sync(index.parent)
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
