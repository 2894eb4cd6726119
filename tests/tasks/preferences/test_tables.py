"""Tables written piece by piece hold every row in order, and what goes wrong while writing is told."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.preferences import tables
from tasks.preferences.tables import Writer

COLUMNS = pa.schema([("n", pa.int64()), ("text", pa.string())])


def test_a_thread_writes_what_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH", 7)
    writer = Writer(tmp_path, COLUMNS, ["even", "odd", "none"])
    rows = [{"n": n, "text": str(n) if n % 3 else None} for n in range(98)]
    for row in rows:
        writer.add(("even", "odd")[row["n"] % 2], row)
    writer.close()
    assert writer.counts == {"even": 49, "odd": 49, "none": 0}
    for name, wanted in (("even", rows[::2]), ("odd", rows[1::2]), ("none", [])):
        with pq.ParquetFile(tmp_path / f"{name}.parquet") as file:
            assert file.read().to_pylist() == wanted
            assert file.num_row_groups == -(-len(wanted) // 7)


def test_what_the_thread_meets_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path, COLUMNS, ["rows"])
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *_: 1 / 0)
    writer.add("rows", {"n": 1, "text": "a"})
    with pytest.raises(ZeroDivisionError):
        writer.close()


def test_quantiles_are_values_that_were_seen() -> None:
    assert tables.quantiles({}) == {}
    assert tables.quantiles(dict.fromkeys(range(1, 6), 1)) == {"p5": 1, "p50": 3, "p95": 5, "p99": 5, "max": 5}
    assert tables.quantiles({7: 94, 1: 5, 9: 1}) == {"p5": 7, "p50": 7, "p95": 7, "p99": 9, "max": 9}
