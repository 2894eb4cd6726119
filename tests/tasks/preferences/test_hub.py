"""Datasets in the layout of the hub: found by `datasets`, and read from their bytes as local files are."""

import gzip
import json
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tasks.preferences import hub
from tasks.preferences.containers import open_rows
from tasks.preferences.screen import BadFileError, Row

NOON = datetime(2024, 1, 1, 12, 30, tzinfo=UTC)
GOOD = [{"prompt": f"Which river is number {n}?", "chosen": f"River {n}.", "rejected": "No."} for n in range(4)]
NAMES = ["desirable", "undesirable"]
CLASSES = "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names: "


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the layout of the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def card(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(f"---\n{text}\n---\nA dataset.\n")


def values(rows: Any) -> list[Any]:
    return [row.value if isinstance(row, Row) else row.reason for row in rows]


def of_hub(
    folder: Path, warnings: Counter[str] | None = None, split: str = "train", config: str | None = None
) -> list[Any]:
    return values(hub.hub_rows(str(folder), "main", split, config, warnings))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "chosen": NaN, "rejected": "b"}', "non_finite"),
        ('{"prompt": "z", "prompt": "y", "chosen": "c", "rejected": "d"}', "duplicate_key"),
        ('{"prompt": "z", "chosen": "c", "rej', "malformed_json"),
        (
            '{"prompt": "q", "chosen": "c", "rejected": "d"} {"prompt": "r", "chosen": "c", "rejected": "d"}',
            "multiple_values",
        ),
        ('{"a":' * 40 + "1" + "}" * 40, "too_deep"),
    ],
)
def test_a_bad_line_costs_itself_alone(folder: Path, line: str, reason: str) -> None:
    (folder / "train.jsonl").write_text(lines(GOOD) + line + "\n" + lines(GOOD[:1]))
    assert of_hub(folder) == [*GOOD, reason, GOOD[0]]


def test_rows_are_those_of_the_file(folder: Path) -> None:
    odd = [{**GOOD[0], "chosen": 7}, {**GOOD[1], "created_at": "2024-01-01T12:30:00Z"}, {"prompt": "q\x00"}]
    (folder / "train.jsonl").write_text(lines([*GOOD, *odd]))
    wanted = list(open_rows(folder / "train.jsonl", Counter()))
    assert list(hub.hub_rows(str(folder), "main", "train", None)) == wanted
    assert wanted[4].value["chosen"] == 7  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["train.jsonl.gz", "train.csv", "train.tsv", "train.parquet", "data/train-0.json"])
def test_every_layout_is_read(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(GOOD)
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(lines(GOOD).encode()))
    elif name.endswith("parquet"):
        pq.write_table(table, path)
    elif name.endswith("json"):
        path.write_text(json.dumps(GOOD))
    else:
        options = pa.csv.WriteOptions(delimiter="," if name.endswith("csv") else "\t")
        pa.csv.write_csv(table, path, options)
    warnings: Counter[str] = Counter()
    assert of_hub(folder, warnings) == GOOD
    assert "read_by_datasets" not in warnings


def test_configs_and_splits_of_the_card_choose_the_files(folder: Path) -> None:
    card(
        folder, "configs:\n- config_name: one\n  data_files: one/*.jsonl\n- config_name: two\n  data_files: two/*.jsonl"
    )
    for config, rows in (("one", GOOD[:1]), ("two", GOOD[1:])):
        (folder / config).mkdir()
        (folder / config / "rows.jsonl").write_text(lines(rows))
    assert (of_hub(folder, config="one"), of_hub(folder, config="two")) == (GOOD[:1], GOOD[1:])
    (folder / "README.md").unlink()
    (folder / "test.jsonl").write_text(lines(GOOD[3:]))
    (folder / "train.jsonl").write_text(lines(GOOD))
    assert of_hub(folder, split="test") == GOOD[3:]


def test_lines_of_several_files_are_counted_on(folder: Path) -> None:
    for number, content in enumerate([lines(GOOD[:2]), "\n", lines(GOOD[2:]) + "{torn\n"]):
        (folder / f"train-0000{number}-of-00003.jsonl").write_text(content)
    warnings: Counter[str] = Counter()
    rows = list(hub.hub_rows(str(folder), "main", "train", None, warnings))
    assert values(rows) == [*GOOD, "malformed_json"]
    assert [(row.line, row.byte_offset) for row in rows] == [(n, None) for n in range(1, 6)]
    assert warnings["empty_file"] == 1
    for path in folder.iterdir():
        path.unlink()
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("a.jsonl", lines(GOOD[:2]))
        archive.writestr("b.jsonl", lines(GOOD[2:]))
    rows = list(hub.hub_rows(str(folder), "main", "train", None))
    assert (values(rows), [row.line for row in rows]) == (GOOD, [1, 2, 3, 4])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "given", "read"),
    [
        (NAMES, [0, 1, -1], [*NAMES, None]),
        (NAMES, ["undesirable", "desirable", "0"], ["undesirable", "desirable", "desirable"]),
        (["0", "1"], [0, 1, -1], [0, 1, None]),
        (["1", "2"], [0, 1, -1], [1, 2, None]),
    ],
)
def test_a_class_of_the_card_is_its_name(
    folder: Path, kind: str, names: list[str], given: list[Any], read: list[Any]
) -> None:
    card(folder, CLASSES + json.dumps({str(place): name for place, name in enumerate(names)}))
    rows = [{"prompt": "q", "label": label} for label in given]
    if kind == "jsonl":
        (folder / "train.jsonl").write_text(lines(rows))
    elif kind == "csv":
        (folder / "train.csv").write_text("prompt,label\n" + "".join(f"q,{row['label']}\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    assert of_hub(folder) == [{"prompt": "q"} | ({} if label is None else {"label": label}) for label in read]


def test_a_class_of_a_parquet_file_is_named_once(folder: Path) -> None:
    import datasets

    made = datasets.Dataset.from_dict({"label": [0, 1, -1]}).cast_column("label", datasets.ClassLabel(names=["1", "2"]))
    made.to_parquet(folder / "train.parquet")
    assert of_hub(folder) == [{"label": 1}, {"label": 2}, {}]
    card(folder, CLASSES + '{"0": "1", "1": "2"}')
    assert of_hub(folder) == [{"label": 1}, {"label": 2}, {}]


def test_what_is_no_text_beside_a_dataset_is_dropped(folder: Path) -> None:
    pq.write_table(pa.table({"prompt": ["q"], "image": [b"x"], "at": pa.array([NOON])}), folder / "train.parquet")
    warnings: Counter[str] = Counter()
    assert of_hub(folder, warnings) == [{"prompt": "q", "at": "2024-01-01T12:30:00.000000Z"}]
    assert warnings == {"dropped_column": 1, "dropped_column:image": 1}


def test_what_only_datasets_opens_is_said(folder: Path) -> None:
    import datasets

    datasets.Dataset.from_list(GOOD).save_to_disk(folder.parent / "saved")
    (folder / "train.arrow").write_bytes(next((folder.parent / "saved").glob("*.arrow")).read_bytes())
    for split, wanted in (("train", GOOD), ("train[:2]", GOOD[:2])):
        warnings: Counter[str] = Counter()
        assert of_hub(folder, warnings, split=split) == wanted
        assert warnings["read_by_datasets"] == 1
    (folder / "train.arrow").unlink()
    (folder / "train.jsonl").write_text(json.dumps({"inside": GOOD}))
    card(folder, "configs:\n- config_name: default\n  data_files: train.jsonl\n  field: inside")
    warnings = Counter()
    assert of_hub(folder, warnings) == GOOD
    assert warnings["read_by_datasets"] == 1


def test_fewer_rows_than_the_card_says_refuse_the_dataset(folder: Path) -> None:
    said = "dataset_info:\n  features:\n  - name: prompt\n    dtype: string\n  splits:\n  - name: train\n"
    card(folder, said + "    num_bytes: 100\n    num_examples: 5")
    (folder / "train.jsonl").write_text(lines([*GOOD, GOOD[0]]))
    assert of_hub(folder) == [*GOOD, GOOD[0]]
    (folder / "train.jsonl").write_text(lines(GOOD))
    with pytest.raises(BadFileError, match="hash_mismatch: has 4 rows, its card says 5; fetch it again"):
        of_hub(folder)


def test_what_cannot_be_found_is_told_in_one_line(folder: Path) -> None:
    (folder / "train.jsonl").write_text(lines(GOOD))
    with pytest.raises(BadFileError, match=r"hub_unavailable: there is no split `nope`, only train; check name, revi"):
        of_hub(folder, split="nope")
    with pytest.raises(BadFileError, match=r"hub_unavailable: .*check name, revision, split and network"):
        of_hub(folder, config="none")
    card(folder, "configs: [")
    with pytest.raises(BadFileError, match=r"hub_unavailable: .*expected the node content"):
        of_hub(folder)
