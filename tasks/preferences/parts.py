"""Prepared tables, file by file: a file of data/raw becomes one in every fold that rows of it fall into.

What becomes of it depends on its rows, the tokenizer and parameters, and on no other file; so it is kept under a hash
of these, and a fresh shard costs what it costs and not its history. What a rater's votes are worth depends on every
vote: that is applied to what is kept, of which only files with such a rater are written again.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.files import write_json
from tasks.preferences.encoding import TABLES, Conversion, Row, Table
from tasks.preferences.folds import FOLDS, SEALED, fold_of
from tasks.preferences.raters import Judgement
from tasks.preferences.shelf import Shelf, share
from tasks.preferences.tables import Writer, arrow_batches, batches, parquet_files, quantiles
from tasks.records import write_table

PLANTED = "~canary.parquet"  # among the files of a fold; they are read in the order of their names, this one last

COUNTED = ("rows", "left_out", "labels", "raters")


@dataclass
class Counts:
    """What there is to say of prepared rows; the sealed fold is one of the folds.

    `left_out` and `truncated` are counted before raters are held out.
    """

    rows: Counter[str] = field(default_factory=Counter)  # by fold
    weights: dict[str, float] = field(default_factory=dict)  # by fold, of comparisons
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    labels: Counter[str] = field(default_factory=Counter)  # of comparisons
    raters: Counter[str] = field(default_factory=Counter)  # of comparisons
    lengths: dict[str, Counter[int]] = field(default_factory=dict)  # in tokens
    truncated: int = 0

    def add(self, other: "Counts") -> None:
        for name in COUNTED:
            getattr(self, name).update(getattr(other, name))
        for fold, weight in other.weights.items():
            self.weights[fold] = self.weights.get(fold, 0.0) + weight
        for name, lengths in other.lengths.items():
            self.lengths.setdefault(name, Counter()).update(lengths)
        self.truncated += other.truncated

    def measure(self, path: Path, fold: str, table: Table) -> None:
        """Add the rows of a file."""
        for batch in arrow_batches([path], [*table.lengths, "choice", "rater", "weight"]):
            self.rows[fold] += len(batch)
            for column, name in table.lengths.items():
                lengths = self.lengths.setdefault(name, Counter())
                lengths.update(_counted(pc.list_value_length(batch[column])))
            if "choice" in batch.schema.names:
                self.labels.update(_counted(batch["choice"]))
                self.raters.update(_counted(batch["rater"]))
                self.weights[fold] = self.weights.get(fold, 0.0) + pc.sum(batch["weight"]).as_py()

    def tokens(self) -> dict[str, dict[str, int]]:
        """Where the lengths lie."""
        return {name: quantiles(lengths) for name, lengths in self.lengths.items()}

    def write(self, path: Path) -> None:
        write_json(path, vars(self))

    @classmethod
    def read(cls, path: Path) -> "Counts":
        document = json.loads(path.read_text(encoding="utf-8"))
        counters: dict[str, Any] = {name: Counter(document.pop(name)) for name in COUNTED}
        by_length = document.pop("lengths").items()
        lengths = {name: Counter({int(n): rows for n, rows in of.items()}) for name, of in by_length}
        return cls(**counters, lengths=lengths, **document)


@dataclass
class Parts:
    """Writes prepared tables."""

    data: Path
    shelf: Shelf
    basis: str  # what a file becomes depends on, beside its rows and the code
    conversion: Conversion
    shares: Mapping[str, float]  # of the folds
    phase: Callable[[str], AbstractContextManager[None]]  # is told when texts become tokens

    def keys(self, name: str) -> dict[Path, str]:
        """What becomes of each file of a table is kept under this."""
        parts = parquet_files(self.data / "raw" / TABLES[name].dataset)
        return {part: self.shelf.key(name, self.basis, part) for part in parts}

    def write(self, name: str, judged: Judgement) -> Counts:
        """Write one prepared table, in place of any old one."""
        table, total = TABLES[name], Counts()
        # Nothing but training may see a demonstration.
        folds = ("train",) if name == "demonstrations" else (*FOLDS, SEALED)
        folders = {fold: self._folder(name, fold) for fold in {*folds, SEALED}}
        for old in (self.data / "prepared" / name, self.data / "sealed" / name):
            if old.exists():
                shutil.rmtree(old)
        kept, targets = [], []
        for part, key in self.keys(name).items():
            kept.append(self.shelf.get(key, partial(self._convert, table, part, folds)))
            targets.append({fold: folder / part.name for fold, folder in folders.items()})
        with ThreadPoolExecutor(int(os.environ.get("PLUMBLINE_THREADS") or os.cpu_count() or 1)) as pool:
            for counts in pool.map(partial(_put, table, judged), kept, targets):
                total.add(counts)
        for folder in folders.values():
            if not any(folder.glob("*.parquet")):
                write_table(table.columns.empty_table(), folder / "none.parquet")
        return total

    def plant(self, fold: str, rows: list[Row]) -> int:
        """Add comparisons to a fold, converted as every other; how many of them can be used."""
        made = [row for row in self._tokenise(TABLES["pairs"], rows) if not isinstance(row, str)]
        if made:
            write_table(pa.Table.from_pylist(made, TABLES["pairs"].columns), self._folder("pairs", fold) / PLANTED)
        return len(made)

    def _tokenise(self, table: Table, rows: list[Row]) -> list[Row | str]:
        with self.phase("tokenise"):
            return self.conversion.rows(table, rows)

    def _folder(self, name: str, fold: str) -> Path:
        if fold == SEALED:
            return self.data / "sealed" / name
        folder = self.data / "prepared" / name
        return folder if name == "demonstrations" else folder / fold

    def _convert(self, table: Table, part: Path, folds: tuple[str, ...], folder: Path) -> None:
        """A file of each fold that there are rows of, and their counts."""
        counts, truncated = Counts(), self.conversion.num_truncated
        writer = Writer(folder, table.columns, folds)
        for batch in batches(part):
            of_rows = [fold_of(row["cluster"], self.shares) for row in batch]
            used = [(fold, row) for fold, row in zip(of_rows, batch, strict=True) if fold in folds]
            counts.left_out["other_fold"] += len(batch) - len(used)
            made = self._tokenise(table, [row for _, row in used])
            for (fold, _), row in zip(used, made, strict=True):
                if isinstance(row, str):
                    counts.left_out[row] += 1
                else:
                    writer.add(fold, row)
        writer.close()
        for fold, number in writer.counts.items():
            path = folder / f"{fold}.parquet"
            if number:
                counts.measure(path, fold, table)
            else:
                path.unlink()
        counts.left_out = +counts.left_out
        counts.truncated = self.conversion.num_truncated - truncated
        counts.write(folder / "counts.json")


def _put(table: Table, judged: Judgement, kept: Path, targets: Mapping[str, Path]) -> Counts:
    """Hand out what is kept of a file, less what raters held out said and weighed as the others deserve."""
    counts = Counts.read(kept / "counts.json")
    held_out = counts.raters.keys() & judged.held_out.keys()
    if not held_out and not counts.raters.keys() & judged.factors.keys():
        for fold in counts.rows:
            share(kept / f"{fold}.parquet", targets[fold])
        return counts
    weights = {fold: _weigh(kept / f"{fold}.parquet", targets[fold], judged) for fold in counts.rows}
    if not held_out:
        counts.weights = weights
        return counts
    changed = Counts(left_out=counts.left_out, truncated=counts.truncated)
    for rater in held_out:
        changed.left_out[judged.held_out[rater]] += counts.raters[rater]
    for fold in counts.rows:
        if targets[fold].exists():
            changed.measure(targets[fold], fold, table)
    return changed


def _weigh(path: Path, target: Path, judged: Judgement) -> float:
    """Write the votes that count, where there are any, each with what its rater is worth; what they weigh together."""
    number, total = 0, 0.0
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetFile(path, page_checksum_verification=True) as file,
        pq.ParquetWriter(target, file.schema_arrow, compression="zstd", write_page_checksum=True) as writer,
    ):
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            coded = rows["rater"].combine_chunks().dictionary_encode()
            raters, of_row = coded.dictionary.to_pylist(), coded.indices.to_numpy()
            factors = np.array([judged.factors.get(rater, 1.0) for rater in raters], dtype=np.float64)[of_row]
            counts = np.array([rater not in judged.held_out for rater in raters], dtype=bool)[of_row]
            weights = rows["weight"].to_numpy() * factors
            place = rows.schema.get_field_index("weight")
            rows = rows.set_column(place, rows.schema.field(place), pa.array(weights))
            writer.write_table(rows if counts.all() else rows.filter(pa.array(counts)))
            number, total = number + int(counts.sum()), total + float(weights[counts].sum())
    if not number:
        target.unlink()
    return total


def _counted(values: Any) -> dict[Any, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()}
