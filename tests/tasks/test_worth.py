"""What raters are worth: beside the files of a folder, applied to its rows by whoever reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import worth
from tasks.records import read_table, write_table

ROWS = {"id": ["1", "2", "3", "4"], "rater": ["ann", "bob", "cid", "bob"], "weight": [1.0, 0.5, 0.25, 2.0]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = pa.table(ROWS)
    write_table(table.slice(0, 3), tmp_path / "a.parquet")
    write_table(table.slice(3), tmp_path / "b.parquet")
    return tmp_path


def test_a_folder_that_says_nothing_is_read_as_it_is(folder: Path) -> None:
    assert worth.read(folder) is None
    assert read_table(folder).to_pydict() == ROWS
    assert read_table(folder, ["weight", "id"]).column_names == ["weight", "id"]


def test_rows_are_weighed_and_raters_held_out_are_gone(folder: Path) -> None:
    worth.write(folder, {"bob": 3.0, "dot": 9.0}, ["cid"])
    found = read_table(folder)
    assert found.to_pydict() == {"id": ["1", "2", "4"], "rater": ["ann", "bob", "bob"], "weight": [1.0, 1.5, 6.0]}
    assert found.schema == pa.table(ROWS).schema
    assert read_table(folder, ["id"]).to_pydict() == {"id": ["1", "2", "4"]}
    assert read_table(folder, ["weight", "id"]).to_pydict() == {"weight": [1.0, 1.5, 6.0], "id": ["1", "2", "4"]}
    assert read_table(folder / "a.parquet").to_pydict() == pa.table(ROWS).slice(0, 3).to_pydict()


def test_a_folder_of_which_nothing_counts(folder: Path) -> None:
    worth.write(folder, {}, ["ann", "bob", "cid"])
    assert read_table(folder).num_rows == 0
    assert read_table(folder, ["id"]).to_pydict() == {"id": []}


def test_a_folder_without_rows(tmp_path: Path) -> None:
    write_table(pa.table(ROWS).slice(4), tmp_path / "none.parquet")
    worth.write(tmp_path, {"bob": 3.0}, ["cid"])
    assert read_table(tmp_path).num_rows == 0


def test_other_readers_of_parquet_folders_pass_over_it(folder: Path) -> None:
    worth.write(folder, {"bob": 3.0}, [])
    assert pq.read_table(folder).num_rows == 4
