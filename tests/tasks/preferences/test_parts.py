"""Prepared tables file by file: a fresh file costs what it costs, and what is kept changes no byte."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import prepare, worth
from tasks.hashes import content_hash
from tasks.preferences import votes
from tasks.preferences.encoding import Conversion
from tasks.preferences.folds import FOLDS, fold_of
from tasks.records import CANARY, DATASETS, Preference, read_table, to_table, write_table
from tasks.shelf import Shelf
from tests.tasks.test_prepare import SHARES, ask, records, run, write

MADE = ("tokenizer", *(f"prepared/{name}" for name in prepare.TABLES), "prepared/canary.json", "raters.json", "sealed")


def votes_of(rater: str, *numbers: int, choice: str = "ab") -> list[Preference]:
    return [
        Preference(
            id=f"{rater}-{n}",
            prompt=ask(n),
            reply_a=f"It is {n}.",
            reply_b="No idea.",
            choice=choice[n % len(choice)],
            confidence=1.0,
            rater=rater,
            source="fresh",
            domain="x",
            cluster=f"c{n}",
        )
        for n in numbers
    ]


def add(data: Path, name: str, rows: list[Preference]) -> None:
    write_table(to_table(rows, DATASETS["preferences"]), data / f"raw/preferences/{name}.parquet")


def made(data: Path) -> dict[str, str]:
    return {name: content_hash(data / name) for name in MADE}


def inodes(data: Path, part: str) -> dict[str, int]:
    paths = (data / f"prepared/pairs/{fold}/{part}.parquet" for fold in FOLDS)
    return {path.parent.name: path.stat().st_ino for path in paths if path.exists()}


def from_nothing(data: Path, **change: Any) -> dict[str, Any]:
    shutil.rmtree(data / "runs")
    return run(data, **change)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Rows that were turned into tokens, by table."""
    seen: Counter[str] = Counter()
    own = Conversion.rows

    def rows(self: Conversion, table: Any, given: list[Any]) -> Any:
        seen[table.dataset] += len(given)
        return own(self, table, given)

    monkeypatch.setattr(Conversion, "rows", rows)
    return seen


def test_only_a_fresh_file_becomes_tokens(tmp_path: Path, converted: Counter[str]) -> None:
    data = write(tmp_path / "data", records())
    run(data)
    before = inodes(data, "test")
    assert set(before) == set(FOLDS)
    add(data, "fresh", votes_of("bob", *range(30)))
    converted.clear()
    metrics = run(data)
    assert converted["preferences"] == 30 + metrics["planted"]
    assert not converted["demonstrations"]
    assert inodes(data, "test") == before  # not even copied
    assert sum(metrics["rows"]["pairs"].values()) == 120 - 24 + 30
    found = made(data)
    assert from_nothing(data) == metrics
    assert made(data) == found


def test_what_raters_are_worth_rewrites_no_file(tmp_path: Path, converted: Counter[str]) -> None:
    data = write(tmp_path / "data", records())
    add(data, "bob", votes_of("bob", *range(60)))
    run(data)
    before = {name: inodes(data, name) for name in ("test", "bob")}
    # Lazy is held out for always choosing what stands first, and is found in a file of bob's as well.
    add(data, "lazy", votes_of("lazy", *range(100), choice="a") + votes_of("bob", *range(60, 90)))
    add(data, "more", votes_of("lazy", *range(100, 120), choice="a"))
    converted.clear()
    metrics = run(data)
    assert metrics["left_out"]["pairs"] == {"unsure": 24, "position_bias": 120}
    assert {name: inodes(data, name) for name in ("test", "bob")} == before
    rows = [row for fold in FOLDS for row in read_table(data / f"prepared/pairs/{fold}").to_pylist()]
    assert Counter(row["rater"] for row in rows) >= Counter({"ann": 96, "bob": 90})
    assert "lazy" not in {row["rater"] for row in rows}
    assert len(rows) == sum(metrics["rows"]["pairs"].values()) + metrics["planted"]
    labels = Counter(row["choice"] for row in rows if row["rater"] != CANARY)
    assert labels == metrics["labels"]
    assert not inodes(data, "more")  # nothing of it counts
    before = {name: inodes(data, name) for name in ("test", "bob", "lazy")}
    reviewed = run(data, raters={"reviewed": ["lazy"]})
    assert {name: inodes(data, name) for name in before} == before
    assert sum(reviewed["rows"]["pairs"].values()) == sum(metrics["rows"]["pairs"].values()) + 120
    assert converted["preferences"] == 120 + 30 + metrics["planted"] + reviewed["planted"]
    run(data)
    found = made(data)
    assert from_nothing(data) == metrics
    assert made(data) == found


def test_a_fold_of_which_nothing_counts_is_empty(tmp_path: Path) -> None:
    data = write(tmp_path, records(preferences=votes_of("lazy", *range(100), choice="a")))
    add(data, "bob", votes_of("bob", 0))
    metrics = run(data)
    assert metrics["left_out"]["pairs"] == {"position_bias": 100}
    rows = {fold: read_table(data / f"prepared/pairs/{fold}").to_pylist() for fold in FOLDS}
    assert {row["rater"] for of_fold in rows.values() for row in of_fold} == {"bob", CANARY}


def test_weights_by_reliability_are_those_of_all_votes(tmp_path: Path) -> None:
    data = write(tmp_path / "data", records())
    for name in ("bob", "cid"):
        add(data, name, votes_of(name, *range(120), choice="ab"))
    add(data, "coin", votes_of("coin", *range(120), choice="aabb"))
    metrics = run(data, rater_weights="reliability")
    first = made(data)
    add(data, "dot", votes_of("dot", *range(120), choice="aabb"))
    run(data, rater_weights="reliability")
    weights = {
        row["rater"]: row["weight"]
        for fold in FOLDS
        for row in read_table(data / f"prepared/pairs/{fold}").to_pylist()
        if row["confidence"] == 1.0
    }
    assert 1.0 != weights["coin"] == weights["dot"] != weights["bob"] != 1.0
    (data / "raw/preferences/dot.parquet").unlink()
    assert run(data, rater_weights="reliability") == metrics
    assert made(data) == first


@pytest.mark.parametrize("change", [{"max_length": 50}, {"reply_room": 11}, {"long_prompts": "truncate"}])
def test_what_a_row_becomes_depends_on_parameters(
    tmp_path: Path, converted: Counter[str], change: dict[str, Any]
) -> None:
    data = write(tmp_path / "data", records())
    run(data)
    converted.clear()
    metrics = run(data, **change)
    assert converted["preferences"] == 120 + metrics["planted"]
    found = made(data)
    assert from_nothing(data, **change) == metrics
    assert made(data) == found


def test_other_demonstrations_make_other_tokens(tmp_path: Path, converted: Counter[str]) -> None:
    data = write(tmp_path / "data", records())
    run(data)
    rows = [row for row in records()["demonstrations"] if row.id != "d0"]
    rows = [type(row)(**vars(row) | {"reply": f"{row.reply} {row.reply[::-1]}"}) for row in rows]
    write_table(to_table(rows, DATASETS["demonstrations"]), data / "raw/demonstrations/test.parquet")
    converted.clear()
    metrics = run(data)
    assert converted["preferences"] == 120 + metrics["planted"]


def test_what_is_no_longer_there_is_forgotten(tmp_path: Path) -> None:
    data = write(tmp_path / "data", records())
    add(data, "fresh", votes_of("bob", *range(30)))
    run(data)
    kept = len(list((data / "runs/prepare/kept").iterdir()))
    (data / "raw/preferences/fresh.parquet").unlink()
    run(data)
    assert len(list((data / "runs/prepare/kept").iterdir())) == kept - 2  # its rows, and its votes
    assert not inodes(data, "fresh")


def test_votes_are_those_of_the_files_wherever_they_come_from(tmp_path: Path) -> None:
    data = write(tmp_path / "data", records())
    add(data, "a", votes_of("zoe", *range(30)) + votes_of("bob", 3))
    add(data, "none", [])
    shelf = Shelf(data / "kept")
    plain, *others = (votes.read(data / "raw/preferences", *given) for given in ((), (shelf,), (shelf,)))
    assert plain.raters == ("ann", "bob", "zoe")
    for other in others:
        for name, value in vars(plain).items():
            np.testing.assert_array_equal(vars(other)[name], value)


def test_a_fold_is_told_only_of_raters_that_it_holds(tmp_path: Path) -> None:
    """So that what somebody else is worth does not have its models trained again."""
    data = write(tmp_path, records())
    run(data)
    before = content_hash(data / "prepared/pairs/test")
    elsewhere = [n for n in range(120) if fold_of(f"c{n}", SHARES) != "test"]
    add(data, "lazy", votes_of("lazy", *elsewhere, choice="a"))
    add(data, "eve", votes_of("lazy", *range(120), choice="a") + votes_of("eve", *elsewhere))
    metrics = run(data)
    assert metrics["left_out"]["pairs"]["position_bias"] == len(elsewhere) + 120
    assert content_hash(data / "prepared/pairs/test") == before
    assert worth.read(data / "prepared/pairs/train") == worth.Worth({"lazy": 0.0}, frozenset({"lazy"}))
