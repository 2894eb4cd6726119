"""Folders that tests begin with."""

import shutil
from pathlib import Path

import pyarrow as pa

from tasks.records import write_table


def fresh(folder: Path) -> Path:
    """An empty data folder."""
    (folder / "inputs").mkdir(parents=True)
    (folder / "shards").mkdir()
    (folder / "shards/index.json").write_text('{"shards": []}')
    return folder


def refill(folder: Path, table: pa.Table) -> None:
    """A folder of a prepared table holds these rows, and no others, in one file."""
    shutil.rmtree(folder, ignore_errors=True)
    write_table(table, folder / "rows.parquet")
