"""Rows that lie a level down in a JSON document, descriptions beside data, and files of other programs."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from tasks.preferences.containers import open_rows, parts
from tasks.preferences.screen import BadFileError, Row
from tests.tasks.preferences.test_bad_inputs import zipped

ROWS = [{"prompt": f"Name river {n}.", "chosen": "The Dañube.", "rejected": "No."} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(path: Path) -> list[Any]:
    return [row.value if isinstance(row, Row) else row.reason for row in open_rows(path, Counter())]


def document(folder: Path, value: Any, name: str = "rows.json", **options: Any) -> Path:
    path = folder / name
    content = value if isinstance(value, bytes) else json.dumps(value, **options).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize(
    "key", ["data", "rows", "examples", "instances", "train", "items", "records", "samples", "test"]
)
def test_rows_in_a_wrapper_are_the_rows(tmp_path: Path, key: str) -> None:
    for indent, ascii_only in ((None, True), (1, False)):
        value = {"version": "1", "about": [1, {"data": []}], key: ROWS, "n": 3}
        assert read(document(tmp_path, value, indent=indent, ensure_ascii=ascii_only)) == ROWS
    assert read(document(tmp_path, b"\xef\xbb\xbf" + json.dumps({key: ROWS}).encode(), "rows.json.gz")) == ROWS


def test_rows_of_the_hubs_server_are_unwrapped_twice(tmp_path: Path) -> None:
    rows = [{"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(ROWS)]
    assert read(document(tmp_path, {"features": [], "rows": rows})) == ROWS


def test_rows_in_a_wrapper_are_judged_as_they_were_written(tmp_path: Path) -> None:
    content = b'{"data": [{"prompt": "q", "prompt": "r"}, {"prompt": NaN}, {"prompt": "x"}]}'
    assert read(document(tmp_path, content)) == ["duplicate_key", "non_finite", {"prompt": "x"}]


def test_one_row_over_several_lines_is_a_row(tmp_path: Path) -> None:
    task = {"id": 1, "data": {"prompt": "q"}, "annotations": [{"result": []}]}
    for row in (ROWS[0], task, {"messages": [{"role": "user", "content": "q"}]}):
        assert read(document(tmp_path, row, indent=2)) == [row]


def test_lines_called_json_are_lines(tmp_path: Path) -> None:
    assert read(document(tmp_path, LINES)) == ROWS
    assert read(document(tmp_path, LINES[:-20])) == [*ROWS[:2], "truncated_line"]
    path, warnings = document(tmp_path, LINES.replace(b"\n", b"\n\n", 1)), Counter[str]()
    offsets = [row.byte_offset for row in open_rows(path, warnings)]
    assert (offsets[1], warnings) == (LINES.index(b"\n") + 2, {"blank_line": 1})


def test_two_lists_of_rows_are_not_chosen_from(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="wrong_format: holds rows under `train` and `samples`; write each to"):
        read(document(tmp_path, {"train": ROWS, "samples": ROWS}))
    with pytest.raises(BadFileError, match="wrong_format: holds rows under `train` and `test`; write each to"):
        read(document(tmp_path, {"train": ROWS, "test": ROWS, "authors": [{"name": "Ann"}]}))


@pytest.mark.parametrize("orient", ["columns", "index", "split"])
def test_a_table_turned_on_its_side_gets_its_remedy(tmp_path: Path, orient: Any) -> None:
    path = document(tmp_path, str(pd.DataFrame(ROWS).to_json(orient=orient)).encode())
    with pytest.raises(BadFileError, match=r"wrong_format: .*pandas.*orient='records', lines=True"):
        read(path)


DESCRIPTION = {"n": 3, "by": {"train": 2}, "names": ["a"], "prompt": "You are helpful.", "none": []}


@pytest.mark.parametrize("packed", [False, True])
def test_a_description_beside_data_is_left_out(tmp_path: Path, packed: bool) -> None:
    row = {**ROWS[0], "prompt": "Name a sea."}
    files = {"a/rows.jsonl": LINES, "a/stats.json": json.dumps(DESCRIPTION).encode(), "a/none.csv": b""}
    files |= {"a/results.json": json.dumps(DESCRIPTION, indent=1).encode(), "a/one.json": json.dumps(row).encode()}
    path = tmp_path / "set"
    if packed:
        path.write_bytes(zipped(files))
    else:
        (path / "a").mkdir(parents=True)
        for name, content in files.items():
            (path / name).write_bytes(content)
    found = parts(path)
    assert [part.name for part in found] == ["a/one.json", "a/rows.jsonl"]
    assert found[0].left_out == {"metadata_file": 2, "empty_file": 1}
    values = [each.value for part in found for each in part.open(Counter()) if isinstance(each, Row)]
    assert values == [row, *ROWS]


def test_what_may_be_rows_is_no_description(tmp_path: Path) -> None:
    table = json.loads(str(pd.DataFrame(ROWS).to_json()))
    for value in ({"rows": ROWS}, {"dialogs": ROWS}, table):
        (tmp_path / "set.zip").write_bytes(zipped({"x.json": json.dumps(value).encode()}))
        assert [part.name for part in parts(tmp_path / "set.zip")] == ["x.json"]


def test_a_file_given_by_itself_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_bytes(b"")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/none.jsonl").write_bytes(b"")
    for name in ("none.jsonl", "set"):
        with pytest.raises(BadFileError, match="empty_file"):
            [list(part.open(Counter())) for part in parts(tmp_path / name)]


def test_files_of_other_programs_say_what_they_are(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["q"]})
    for name, new in (("stream.arrow", pa.ipc.new_stream), ("file.bin", pa.ipc.new_file)):
        with new(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "book.xlsx").write_bytes(zipped({"xl/workbook.xml": b"x"}))
    (tmp_path / "book.zip").write_bytes(zipped({"xl/workbook.xml": b"x"}))
    (tmp_path / "old.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/book.xlsx").write_bytes(zipped({"xl/workbook.xml": b"x"}))
    for name, what in (("stream.arrow", "Arrow"), ("file.bin", "Arrow"), ("book.xlsx", "Excel"), ("book.zip", "Excel")):
        with pytest.raises(BadFileError, match=f"wrong_format: an {what} .*(parquet|CSV)"):
            [list(part.open(Counter())) for part in parts(tmp_path / name)]
    for name in ("old.xls", "set"):
        with pytest.raises(BadFileError, match="wrong_format: an Excel workbook"):
            [list(part.open(Counter())) for part in parts(tmp_path / name)]
