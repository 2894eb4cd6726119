"""Where accepted records wait until all sources are read, because a later row may still contradict an earlier one.

Files are written as they will be published, in parts of one source each. What a comparison comes from stands in a
file beside its part, row by row, so that it can still be refused with its line and hash.
"""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.preferences import requeue
from tasks.preferences.keys import row_key
from tasks.preferences.screen import Refusal, Row, excerpt
from tasks.preferences.tables import source_of
from tasks.records import DATASETS, Preference, Record, schema, to_table, write_table
from tasks.shelf import share

GROUP = 10_000  # rows written at once
PART = 5  # groups in a file: what a later contradiction makes us write again
MOST_NAMED = 12  # fields that a format does not read
_ORIGIN = pa.schema([("key", pa.uint64()), ("line", pa.int64()), ("byte_offset", pa.int64()), ("sha256", pa.string())])
_OPTIONS = {"compression": "zstd", "write_page_checksum": True}
_LINES = ("quarantine", "requeue")  # folders of files that grow line by line
REQUEUE = "requeue/pairs.jsonl"  # of the quarantine; not beside the files of refused rows
Pending = list[tuple[Record, Row | None]]


@dataclass
class Tally:
    """What became of the rows of one source."""

    format: str
    input: int = 0
    accepted: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)  # rows that have it, of the first MOST_NAMED

    def check(self) -> None:
        assert self.accepted + self.quarantined.total() == self.input, "a row was lost or counted twice"

    def ignore(self, names: set[str]) -> None:
        """A row has fields that its format does not read."""
        if names:
            self.warnings["unknown_field"] += 1
            for name in sorted(name[:40] for name in names):
                if name in self.unknown_fields or len(self.unknown_fields) < MOST_NAMED:
                    self.unknown_fields[name] += 1

    def contradict(self, number: int) -> None:
        self.accepted -= number
        self.records["preferences"] -= number
        self.quarantined["self_contradiction"] += number


class Staging:
    """Parquet files per (dataset, source) and a quarantine file per source, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending: dict[tuple[str, str], Pending] = {}
        self._written: Counter[tuple[str, str]] = Counter()  # groups
        self._writers: dict[tuple[str, str], list[pq.ParquetWriter]] = {}
        for name in _LINES:
            (folder / name).mkdir(parents=True)

    def add(self, source: str, dataset: str, record: Record, row: Row | None = None) -> None:
        pending = self._pending.setdefault((dataset, source), [])
        pending.append((record, row))
        if len(pending) >= GROUP:
            self._flush(dataset, source)

    def refuse(self, source: str, refusals: Iterable[Refusal]) -> None:
        with (self.folder / "quarantine" / f"{source}.jsonl").open("a", encoding="utf-8") as file:
            for refusal in refusals:
                file.write(json.dumps(refusal.record(), sort_keys=True) + "\n")

    def ask_again(self, source: str, pairs: Iterable[Preference]) -> None:
        with (self.folder / "requeue" / f"{source}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{requeue.line(pair)}\n" for pair in pairs)

    def finish(self, source: str) -> None:
        """Write what is pending of a source."""
        for dataset, name in [key for key in self._pending if key[1] == source]:
            self._flush(dataset, name)
        for key in [key for key in self._writers if key[1] == source]:
            for writer in self._writers.pop(key):
                writer.close()

    def close(self) -> None:
        for source in {name for _, name in (*self._pending, *self._writers)}:
            self.finish(source)

    def parts(self, dataset: str, source: str = "*") -> list[Path]:
        """Finished files, in the order they were written in."""
        found = (path for path in (self.folder / dataset).glob("*.parquet") if source in ("*", source_of(path)))
        return sorted(found)

    def drop(self, source: str, contradicted: Collection[int], tally: Tally) -> None:
        """Refuse the comparisons of these `row_key`s; parts that hold none stay as they are."""
        keys = np.fromiter(contradicted, np.uint64, len(contradicted))
        for part in self.parts("preferences", source) if len(keys) else []:
            beside = self.folder / "origin" / part.name
            held = pq.read_table(beside, columns=["key"])["key"].to_numpy()
            lost = np.isin(held, keys)
            if not lost.any():
                continue
            origin = pq.read_table(beside)
            rows = origin.filter(pa.array(lost)).to_pylist()
            said = pq.read_table(part).filter(pa.array(lost)).to_pylist()
            self.refuse(source, [_refusal(*pair) for pair in zip(rows, said, strict=True)])
            tally.contradict(len(rows))
            _rewrite(part, lost)
            _replace(beside, origin.filter(pa.array(~lost)))

    def keep(self, source: str, folder: Path) -> None:
        """Link the finished files of a source to a folder, from where `adopt` takes them."""
        files = [path for name in (*DATASETS, "origin") for path in self.parts(name, source)]
        lines = (self.folder / name / f"{source}.jsonl" for name in _LINES)
        for path in (*files, *(path for path in lines if path.exists())):
            _share(path, folder / path.relative_to(self.folder))

    def adopt(self, folder: Path) -> None:
        for name in (*DATASETS, "origin", *_LINES):
            for path in sorted((folder / name).glob("*")):
                _share(path, self.folder / name / path.name)

    def _flush(self, dataset: str, source: str) -> None:
        rows = self._pending.pop((dataset, source))
        writers = self._writers.get((dataset, source))
        if writers is None:
            writers = self._writers[dataset, source] = self._open(dataset, source)
        writers[0].write_table(_table([record for record, _ in rows], writers[0].schema))
        if len(writers) == 2:
            writers[1].write_table(_origin(rows))
        self._written[dataset, source] += 1
        if self._written[dataset, source] % PART == 0:
            for writer in self._writers.pop((dataset, source)):
                writer.close()

    def _open(self, dataset: str, source: str) -> list[pq.ParquetWriter]:
        number = self._written[dataset, source] // PART
        name = f"{source}_{number:05}.parquet" if number else f"{source}.parquet"
        opened = []
        for folder, columns in ((dataset, schema(DATASETS[dataset])), ("origin", _ORIGIN)):
            if folder == dataset or dataset == "preferences":
                (self.folder / folder).mkdir(exist_ok=True)
                opened.append(pq.ParquetWriter(self.folder / folder / name, columns, **_OPTIONS))
        return opened


def publish(
    staging: Staging, contradicted: Collection[int], tallies: dict[str, Tally], raw: Path, quarantine: Path
) -> int:
    """Move what was staged to its place, less the rows that a later one contradicted.

    Every dataset gets at least one file, every source a quarantine file: an empty one says that nothing was refused.
    Returns how many pairs are to be voted on again.
    """
    for name, tally in tallies.items():
        staging.drop(name, contradicted, tally)
        tally.check()
        (staging.folder / "quarantine" / f"{name}.jsonl").touch()
    for dataset, record in DATASETS.items():
        if not staging.parts(dataset):
            write_table(to_table([], record), staging.folder / dataset / "none.parquet")
    asked = [path for name in tallies if (path := staging.folder / "requeue" / f"{name}.jsonl").exists()]
    num_requeued = requeue.merge(asked, staging.folder / "quarantine" / REQUEUE) if asked else 0
    for folder, target in (
        *((staging.folder / dataset, raw / dataset) for dataset in DATASETS),
        (staging.folder / "quarantine", quarantine),
    ):
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.replace(target)
    return num_requeued


def _share(path: Path, target: Path) -> None:
    """The same file under another name; a copy of what may still grow."""
    if path.parent.name in _LINES:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    else:
        share(path, target)


def _table(records: list[Record], columns: pa.Schema) -> pa.Table:
    rows = map(itemgetter(*columns.names), map(vars, records))
    made = [pa.array(values, kind.type) for values, kind in zip(zip(*rows, strict=True), columns, strict=True)]
    return pa.Table.from_arrays(made, schema=columns)


def _origin(rows: Pending) -> pa.Table:
    made = [
        [row_key(record.id) for record, _ in rows],
        [row.line if row else None for _, row in rows],
        [row.byte_offset if row else None for _, row in rows],
        [row.sha256 if row else None for _, row in rows],
    ]
    columns = [pa.array(column, kind.type) for column, kind in zip(made, _ORIGIN, strict=True)]
    return pa.Table.from_arrays(columns, schema=_ORIGIN)


def _refusal(origin: dict[str, Any], row: dict[str, Any]) -> Refusal:
    at = origin["line"], origin["byte_offset"], origin["sha256"]
    return Refusal(*at, "self_contradiction", excerpt(row), rater=row["rater"])


def _rewrite(part: Path, lost: np.ndarray) -> None:
    """Less the rows marked `lost`, group by group; whoever else holds a link to the file keeps what it was."""
    temporary = part.with_suffix(".rest")
    with pq.ParquetFile(part) as file, pq.ParquetWriter(temporary, schema(Preference), **_OPTIONS) as writer:
        first = 0
        for batch in file.iter_batches(GROUP):
            kept = pa.array(~lost[first : first + batch.num_rows])
            writer.write_table(pa.Table.from_batches([batch]).filter(kept))
            first += batch.num_rows
    temporary.replace(part)


def _replace(path: Path, table: pa.Table) -> None:
    temporary = path.with_suffix(".rest")
    pq.write_table(table, temporary, **_OPTIONS)
    temporary.replace(path)
