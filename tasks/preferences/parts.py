"""Prepared tables, file by file: a file of data/raw becomes one in every fold that rows of it fall into.

What becomes of it depends on its rows, the tokenizer and parameters, and on no other file; so it is kept under a hash
of these, and a fresh shard costs what it costs and not its history. What a rater's votes are worth depends on every
vote: that stands beside the files of a fold, for whoever reads them (`records.read_table`).
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tasks import worth
from tasks.files import write_json
from tasks.preferences.encoding import TABLES, Conversion, Row, Table
from tasks.preferences.folds import FOLDS, SEALED, fold_of
from tasks.preferences.raters import Judgement
from tasks.preferences.tables import Writer, arrow_batches, batches, parquet_files, quantiles
from tasks.records import write_table
from tasks.shelf import Shelf, share

PLANTED = "~canary.parquet"  # among the files of a fold; they are read in the order of their names, this one last

COUNTED = ("rows", "left_out", "labels")


class Votes(NamedTuple):
    """So many comparisons of a fold in which a rater said the same, and what they weigh together."""

    fold: str
    rater: str
    choice: str
    number: int
    weight: float


@dataclass
class Counts:
    """What there is to say of prepared rows; the sealed fold is one of the folds.

    `truncated` and `lengths` are counted before raters are held out.
    """

    rows: Counter[str] = field(default_factory=Counter)  # by fold
    weights: dict[str, float] = field(default_factory=dict)  # by fold, of comparisons
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    labels: Counter[str] = field(default_factory=Counter)  # of comparisons
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

    def take(self, votes: Iterable[Votes], judged: Judgement) -> None:
        """Add what these weigh and say, and take those of raters held out from the rows, where they are counted."""
        for fold, rater, choice, number, weight in votes:
            if reason := judged.held_out.get(rater):
                self.rows[fold] -= number
                self.left_out[reason] += number
            else:
                self.labels[choice] += number
                self.weights[fold] = self.weights.get(fold, 0.0) + weight * judged.factors.get(rater, 1.0)

    def tokens(self) -> dict[str, dict[str, int]]:
        """Where the lengths lie."""
        return {name: quantiles(lengths) for name, lengths in self.lengths.items()}


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
        raters: dict[str, set[str]] = {fold: set() for fold in folders}
        for part, key in self.keys(name).items():
            kept = self.shelf.get(key, partial(self._convert, table, part, folds))
            counts, votes = _read(kept / "counts.json")
            total.add(counts)
            total.take(votes, judged)
            for fold in counts.rows:
                said = {vote.rater for vote in votes if vote.fold == fold}
                if not said or said - judged.held_out.keys():  # else nothing of the file counts
                    share(kept / f"{fold}.parquet", folders[fold] / part.name)
                    raters[fold] |= said
        for fold, folder in folders.items():
            if not any(folder.glob("*.parquet")):
                write_table(table.columns.empty_table(), folder / "none.parquet")
            factors = {rater: factor for rater, factor in judged.factors.items() if rater in raters[fold]}
            held_out = raters[fold] & judged.held_out.keys()
            if factors or held_out:
                worth.write(folder, factors, held_out)
        return total

    def plant(self, name: str, fold: str, rows: list[Row]) -> int:
        """Add rows to a fold of a table, converted as every other; how many of them can be used."""
        made = [row for row in self._tokenise(TABLES[name], rows) if not isinstance(row, str)]
        if made:
            write_table(pa.Table.from_pylist(made, TABLES[name].columns), self._folder(name, fold) / PLANTED)
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
        votes = []
        for fold, number in writer.counts.items():
            path = folder / f"{fold}.parquet"
            if number:
                counts.rows[fold] = number
                votes += _measure(path, fold, table, counts.lengths)
            else:
                path.unlink()
        counts.left_out = +counts.left_out
        counts.truncated = self.conversion.num_truncated - truncated
        write_json(folder / "counts.json", {"counts": vars(counts), "votes": votes})


def _measure(path: Path, fold: str, table: Table, lengths: dict[str, Counter[int]]) -> list[Votes]:
    """Add the lengths of a file's texts to those known; its votes, where it has any."""
    said: dict[tuple[str, str], tuple[int, float]] = {}
    for batch in arrow_batches([path], [*table.lengths, "choice", "rater", "weight"]):
        for column, name in table.lengths.items():
            lengths.setdefault(name, Counter()).update(_counted(pc.list_value_length(batch[column])))
        if _votes_in(table):
            columns = (batch[name].to_pylist() for name in ("rater", "choice", "weight"))
            for rater, choice, weight in zip(*columns, strict=True):
                number, total = said.get((rater, choice), (0, 0.0))
                said[rater, choice] = number + 1, total + weight
    return [Votes(fold, *key, *sums) for key, sums in sorted(said.items())]


def _votes_in(table: Table) -> bool:
    return "choice" in table.columns.names


def _read(path: Path) -> tuple[Counts, list[Votes]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    counts = document["counts"]
    counters: dict[str, Any] = {name: Counter(counts.pop(name)) for name in COUNTED}
    by_length = counts.pop("lengths").items()
    lengths = {name: Counter({int(n): rows for n, rows in of.items()}) for name, of in by_length}
    return Counts(**counters, lengths=lengths, **counts), [Votes(*each) for each in document["votes"]]


def _counted(values: Any) -> dict[Any, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()}
