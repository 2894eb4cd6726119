"""Tables read and written piece by piece, so that memory does not grow with the data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_BATCH = 5000
_ARROW_BATCH = 20_000


def batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a parquet file, or of every one of a folder in name order."""
    for columns in column_batches(path):
        yield [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def column_batches(path: Path) -> Iterator[dict[str, list[Any]]]:
    """As `batches`, by column: a fraction of the time where not every row is looked at as a whole."""
    for part in [path] if path.is_file() else parquet_files(path):
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_BATCH):
                yield {name: batch.column(name).to_pylist() for name in batch.schema.names}


def parquet_files(folder: Path) -> list[Path]:
    """Those of a folder, in name order. FileNotFoundError where there is none."""
    if not (paths := sorted(folder.glob("*.parquet"))):
        raise FileNotFoundError(f"{folder}: no parquet file; run the stage that writes it")
    return paths


def arrow_batches(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Those of the columns that the files have, never as Python's own texts: a million rows take seconds."""
    for path in paths:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            known = [column for column in columns if column in file.schema_arrow.names]
            yield from file.iter_batches(_ARROW_BATCH, columns=known)


def greatest(paths: Iterable[Path], column: str) -> str | None:
    """The greatest text of a column, by what the files say of themselves: no row is read."""
    found = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            groups = range(file.metadata.num_row_groups) if column in names else ()
            told = [file.metadata.row_group(n).column(_leaf(file, column)).statistics for n in groups]
            found += [str(each.max) for each in told if each is not None and each.has_min_max]
    return max(found, default=None)


def _leaf(file: pq.ParquetFile, column: str) -> int:
    """Where a plain column stands among the leaves of the schema."""
    return [file.schema.column(n).path for n in range(len(file.schema))].index(column)


def characters(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Of each text, those that are null left out."""
    return np.asarray(pc.utf8_length(texts.drop_null())).astype(np.int64)


def longer_won(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Of every decided comparison: 1 where the longer reply is preferred, -1 where the shorter is, 0 for equal ones.

    Reads `choice`, `reply_a` and `reply_b`.
    """
    choice = np.array(batch["choice"].to_pylist(), dtype=object)
    side = np.where(choice == "a", 1, -1) * np.sign(characters(batch["reply_a"]) - characters(batch["reply_b"]))
    return np.asarray(side[np.isin(choice, ("a", "b"))])


def source_of(part: Path) -> str:
    """The source that a file of data/raw holds rows of: `name.parquet`, then `name_00001.parquet` and so on."""
    return part.stem.partition("_")[0]  # names of sources have no underscore


class Writer:
    """One parquet file per name in a folder that is replaced whole; a name without rows gets an empty file.

    A thread packs what is full, one table at a time, while the next rows come: the bytes are the same.
    """

    def __init__(self, folder: Path, columns: pa.Schema, names: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        self.counts = dict.fromkeys(names, 0)
        self._columns = columns
        self._pending: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        self._thread = ThreadPoolExecutor(1)
        self._packed: Future[None] | None = None
        self._files = {
            name: pq.ParquetWriter(folder / f"{name}.parquet", columns, compression="zstd", write_page_checksum=True)
            for name in names
        }

    def add(self, name: str, row: dict[str, Any]) -> None:
        self.counts[name] += 1
        self._pending[name].append(row)
        if len(self._pending[name]) == _BATCH:
            self._flush(name)

    def close(self) -> None:
        for name in self._files:
            self._flush(name)
        self._wait()
        self._thread.shutdown()
        for file in self._files.values():
            file.close()

    def _flush(self, name: str) -> None:
        if not self._pending[name]:
            return
        table = pa.Table.from_pylist(self._pending[name], schema=self._columns)
        self._pending[name] = []
        self._wait()
        self._packed = self._thread.submit(self._files[name].write_table, table)

    def _wait(self) -> None:
        """Until what was given to the thread is in its file. Raises what writing raised."""
        if self._packed is not None:
            self._packed.result()


def quantiles(lengths: Mapping[int, int]) -> dict[str, int]:
    """Of so many values of each length: values that were seen; nothing of none."""
    values = np.array(sorted(lengths), dtype=np.int64)
    upto = np.cumsum([lengths[value] for value in values.tolist()])
    if not len(values):
        return {}
    number = int(upto[-1])
    places = {f"p{q}": min(number - 1, number * q // 100) for q in (5, 50, 95, 99)} | {"max": number - 1}
    return {name: int(values[np.searchsorted(upto, place, side="right")]) for name, place in places.items()}
