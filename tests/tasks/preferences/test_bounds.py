"""Dataset-level holds: fixed bounds, comparison with another version, release of exactly one state of the data."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.hashes import content_hash
from tasks.preferences import bounds, shift
from tasks.preferences.bounds import HoldOptions
from tasks.records import DATASETS, Demonstration, Preference, Safety, to_table, write_table

ASK: Any = [{"role": "user", "content": "Hi"}]
SHARED: dict[str, Any] = {"prompt": ASK, "source": "test", "cluster": "c"}
OPTIONS = HoldOptions()


def comparisons(number: int = 200, **change: Any) -> list[Any]:
    rng = random.Random(0)
    return [
        Preference(
            id=str(n),
            reply_a="x" * rng.randint(1, 99) + f"a{n}",
            reply_b="x" * rng.randint(1, 99) + f"b{n}",
            choice="ab"[n % 2],
            confidence=1.0,
            rater="ann",
            domain="d",
            **SHARED,
        )
        for n in range(number)
    ]


def safety(decline: int, assist: int) -> list[Any]:
    expected = ["decline"] * decline + ["assist"] * assist
    return [Safety(id=str(n), expected=e, category="c", reply=f"r{n}", **SHARED) for n, e in enumerate(expected)]


def write(data: Path, **rows: list[Any]) -> Path:
    rows = {"preferences": comparisons(), "safety": safety(60, 40), **rows}
    for name, record in DATASETS.items():
        write_table(to_table(rows.get(name, []), record), data / "raw" / name / "test.parquet")
    return data


def held(data: Path) -> list[tuple[str, str]]:
    return [(dataset, hold.name) for dataset, hold in bounds.check(data, OPTIONS)[0]]


def test_the_length_auc_is_that_of_scikit_learn(tmp_path: Path) -> None:
    """Over all pairs, each in both orders, where no lengths are equal; pair by pair in any case."""
    rows = comparisons(400)
    for told in ([row for row in rows if len(row.reply_a) != len(row.reply_b)], rows):
        longer = np.sign([len(row.reply_a) - len(row.reply_b) for row in told])
        first = np.array([row.choice == "a" for row in told])
        _, measured = bounds.check(write(tmp_path, preferences=told), OPTIONS)
        found = [measured["preferences"]["length_auc"], shift.length_auc([vars(row) for row in told])]
        within = [roc_auc_score([a, not a], [side, -side]) for a, side in zip(first, longer, strict=True)]
        assert found == pytest.approx([np.mean(within)] * 2, abs=1e-6)
        if np.all(longer):
            both = roc_auc_score(np.r_[first, ~first], np.r_[longer, -longer])
            assert found == pytest.approx([both] * 2, abs=1e-6)
    assert not np.all(longer)


def test_good_data_passes_and_its_figures_are_right(tmp_path: Path) -> None:
    rows = comparisons()
    holds, measured = bounds.check(write(tmp_path), OPTIONS)
    assert holds == []
    longer = [
        0.5 if len(r.reply_a) == len(r.reply_b) else (len(r.reply_a) > len(r.reply_b)) == (r.choice == "a")
        for r in rows
    ]
    assert measured["preferences"]["length_auc"] == pytest.approx(sum(longer) / len(longer))
    assert measured["preferences"]["choices"]["a"] == 0.5
    assert measured["safety"] == {"rows": 100, "decline_share": 0.6}


def test_one_rater_for_all_is_held_where_a_bound_says_so(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, rater="bob" if n % 4 else "ann") for n, row in enumerate(comparisons())]
    data = write(tmp_path, preferences=rows)
    assert held(data) == []
    ((_, hold),) = bounds.check(data, HoldOptions(max_rater_share=0.6))[0]
    assert hold.line == "rater_dominance: bob gave 150 of 200 votes (0.75, bound 0.6)"
    nameless = [dataclasses.replace(row, rater="source:votes") for row in rows]
    assert bounds.check(write(tmp_path, preferences=nameless), HoldOptions(max_rater_share=0.6))[0] == []


def longest_wins(row: Any) -> str:
    return "a" if len(row.reply_a) > len(row.reply_b) else "b"


@pytest.mark.parametrize(
    ("choose", "name"),
    [
        (lambda row: "a", "class_absent"),
        (lambda row: "ab"[row.id.endswith("7")], "label_balance"),
        (longest_wins, "length_auc"),
    ],
)
def test_labels_out_of_bounds_are_held(tmp_path: Path, choose: Callable[[Any], str], name: str) -> None:
    rows = [dataclasses.replace(row, choice=choose(row)) for row in comparisons()]
    assert ("preferences", name) in held(write(tmp_path, preferences=rows))


def test_few_rows_say_nothing(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, choice="a") for row in comparisons(40)]
    assert held(write(tmp_path, preferences=rows, safety=safety(40, 0))) == []


def test_a_safety_set_that_only_refuses_is_held(tmp_path: Path) -> None:
    assert held(write(tmp_path, safety=safety(100, 2))) == [("safety", "safety_ratio")]
    assert held(write(tmp_path, safety=safety(2, 100))) == [("safety", "safety_ratio")]


def test_one_file_given_as_two_datasets_is_held_whatever_its_order(tmp_path: Path) -> None:
    rows = safety(60, 40)
    same = [Demonstration(id=row.id, reply=row.reply, domain="d", **SHARED) for row in reversed(rows)]
    assert held(write(tmp_path, safety=rows, demonstrations=same)) == [("safety", "shared_root")]
    assert held(write(tmp_path, safety=rows, demonstrations=same[1:])) == []


def test_too_many_refused_rows_are_held_repeats_aside(tmp_path: Path) -> None:
    def report(**reasons: int) -> None:
        metrics = {"input": 100, "quarantined": {"total": sum(reasons.values()), **reasons}}
        (tmp_path / "reports").mkdir(exist_ok=True)
        (tmp_path / "reports/ingest.json").write_text(json.dumps({"metrics": metrics}))

    write(tmp_path)
    report(exact_duplicate=50, type=5)
    assert held(tmp_path) == []
    report(type=6)
    assert held(tmp_path) == [("preferences", "quarantine_rate")]


def metrics(rows: int, a: float = 0.5, auc: float = 0.5) -> dict[str, Any]:
    choices = dict.fromkeys(("tie", "both_bad", "unsure"), 0.0) | {"a": a, "b": 1 - a}
    return {
        "preferences": {"rows": rows},
        "taxonomy": [],
        "holds": {"preferences": {"decided": rows, "choices": choices, "length_auc": auc}},
    }


@pytest.mark.parametrize(
    ("now", "names"),
    [
        (metrics(81), []),
        (metrics(79), ["volume_drop"]),
        (metrics(500), []),
        (metrics(100, a=0.65), ["shift_hold"]),
        (metrics(100, auc=0.62), ["shift_hold"]),
        (metrics(20, a=0.9), ["volume_drop"]),  # too few to speak of shares
    ],
)
def test_what_changed_since_another_version(now: dict[str, Any], names: list[str]) -> None:
    assert [hold.name for _, hold in bounds.compare(now, metrics(100), OPTIONS)] == names


def test_a_release_is_for_this_hold_of_this_data(tmp_path: Path) -> None:
    write(tmp_path, safety=safety(100, 2))
    holds, _ = bounds.check(tmp_path, OPTIONS)

    def standing() -> int:
        hashes = {"safety": content_hash(tmp_path / "raw/safety")}
        return len(bounds.unreleased(holds, hashes, bounds.releases(tmp_path)))

    assert standing() == 1
    with pytest.raises(ValueError, match="REASON: empty"):
        bounds.release(tmp_path, "safety_ratio", "safety", "ann", "")
    with pytest.raises(ValueError, match="DATASET=nope"):
        bounds.release(tmp_path, "safety_ratio", "nope", "ann", "why")
    bounds.release(tmp_path, "length_auc", "safety", "ann", "another hold")
    assert standing() == 1
    made = bounds.release(tmp_path, "safety_ratio", "safety", "ann", "a pilot")
    assert standing() == 0
    assert bounds.releases(tmp_path)[-1] == made
    write(tmp_path, safety=safety(101, 2))
    assert standing() == 1
    (tmp_path / "releases.json").write_text("{}")
    with pytest.raises(ValueError, match="restore it with git"):
        bounds.releases(tmp_path)
