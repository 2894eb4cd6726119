"""Typed tables: classes by their names, moments as text, and no column lost in silence."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.preferences import tabular
from tasks.preferences.screen import BadFileError, Row

NOON = datetime(2024, 1, 1, 12, 30, tzinfo=UTC)
NAMES = ["desirable", "undesirable"]


def values(rows: Any) -> list[Any]:
    return [row.value if isinstance(row, Row) else row.reason for row in rows]


def read(path: Path, table: pa.Table) -> tuple[list[Any], Counter[str]]:
    warnings: Counter[str] = Counter()
    pq.write_table(table, path / "rows.parquet")
    return values(tabular.parquet_rows(path / "rows.parquet", warnings)), warnings


@pytest.mark.parametrize(
    ("names", "read"), [(NAMES, [*NAMES, None]), (["0", "1"], [0, 1, None]), (["1", "2"], [1, 2, None])]
)
def test_a_class_is_its_name_and_not_its_place(tmp_path: Path, names: list[str], read: list[Any]) -> None:
    import datasets

    made = datasets.Dataset.from_dict({"n": [0, 1, 2], "label": [0, 1, -1]})
    made.cast_column("label", datasets.ClassLabel(names=names)).to_parquet(tmp_path / "train.parquet")
    wanted = [{"n": n} | ({} if label is None else {"label": label}) for n, label in enumerate(read)]
    assert values(tabular.parquet_rows(tmp_path / "train.parquet", Counter())) == wanted


def test_names_of_another_column_or_number_change_nothing(tmp_path: Path) -> None:
    features = {"label": {"names": NAMES, "_type": "ClassLabel"}, "gone": {"names": NAMES, "_type": "ClassLabel"}}
    for said in (json.dumps({"info": {"features": features}}), "no JSON", "[]"):
        table = pa.table({"label": pa.array(["a text", "b"])}).replace_schema_metadata({"huggingface": said})
        assert read(tmp_path, table)[0] == [{"label": "a text"}, {"label": "b"}]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_moment_with_a_zone_is_text(tmp_path: Path, unit: str) -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    for zone in ("UTC", "Asia/Tokyo"):
        ((value,), warnings) = read(tmp_path, pa.table({"created_at": pa.array([tokyo], pa.timestamp(unit, zone))}))
        assert value["created_at"][10:11] == "T"
        assert datetime.fromisoformat(value["created_at"]) == NOON
        assert not warnings
    plain = pa.table({"prompt": ["q"], "created_at": pa.array([NOON.replace(tzinfo=None)], pa.timestamp(unit))})
    assert read(tmp_path, plain) == ([{"prompt": "q"}], {"dropped_column": 1, "dropped_column:created_at": 1})


def test_views_of_texts_are_texts(tmp_path: Path) -> None:
    assert read(tmp_path, pa.table({"a": pa.array(["x"], pa.string_view())})) == ([{"a": "x"}], {})


@pytest.mark.parametrize("listed", [pa.list_, pa.large_list])
def test_messages_lose_their_odd_fields_alone(tmp_path: Path, listed: Any) -> None:
    fields = {"role": pa.string(), "n": pa.int64(), "at": pa.timestamp("us"), "sent": pa.timestamp("ns", "UTC")}
    odd = {**fields, "cost": pa.decimal128(5, 2)}
    message = {"role": "user", "n": 1, "at": None, "sent": NOON, "cost": None}
    table = pa.table({"messages": pa.array([[message], None, []], listed(pa.struct(list(odd.items()))))})
    (first, second, third), warnings = read(tmp_path, table)
    sent = first["messages"][0].pop("sent")
    assert (datetime.fromisoformat(sent), first, second, third) == (
        NOON,
        {"messages": [{"role": "user", "n": 1}]},
        {},
        {"messages": []},
    )
    assert warnings == {"dropped_column": 2, "dropped_column:messages.at": 1, "dropped_column:messages.cost": 1}


def test_at_most_eight_dropped_columns_are_named(tmp_path: Path) -> None:
    at = pa.array([NOON.replace(tzinfo=None)])
    _, warnings = read(tmp_path, pa.table({"prompt": ["q"], **{f"at_{n}": at for n in range(12)}}))
    assert warnings["dropped_column"] == 12
    assert len(warnings) == 9


def test_two_columns_of_one_name_refuse_the_file(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["rejected", "rejected"])
    with pytest.raises(BadFileError, match=r"wrong_format: the table has 2 columns named `rejected`; rename them"):
        read(tmp_path, table)
