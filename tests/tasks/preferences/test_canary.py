"""Obvious preferences: which demonstrations they are made of, what ruins a reply, what is planted."""

import json
import random

import pytest

from tasks.preferences import canary
from tasks.records import CANARY, DATASETS, Demonstration, to_table, write_table

FOLDS = ("train", "judge")


def demonstrations(number=40):
    """Two of each cluster; even clusters are to train on."""
    return [
        {
            "id": f"d{n}",
            "cluster": f"c{n // 2}",
            "prompt": [{"role": "user", "content": f"What is {n // 2}?"}],
            "reply": f"It is {n // 2}, and I say so {n % 2 + 1} times.",
            "domain": "x",
        }
        for n in range(number)
    ]


def fold(cluster):
    return FOLDS[int(cluster[1:]) % 2]


def test_a_cluster_is_on_one_side_and_the_order_of_rows_has_no_say():
    rows = demonstrations()
    sides = canary.choose(rows, fold)
    for name in FOLDS:
        planted, held_out = (sides[name][side] for side in ("planted", "held_out"))
        assert all(fold(row["cluster"]) == name for row in [*planted, *held_out])
        clusters = [row["cluster"] for row in [*planted, *held_out]]
        assert len(clusters) == len(set(clusters)) == 10  # one row of each
        assert planted
        assert held_out
    mixed = list(rows)
    random.Random(1).shuffle(mixed)
    assert canary.choose(mixed, fold) == sides
    more = canary.choose([row for row in rows if row["cluster"] != "c0"], fold)
    assert "c0" not in {row["cluster"] for row in [*more["train"]["planted"], *more["train"]["held_out"]]}


def test_few_are_used_again_against_other_noise():
    rows = canary.repeat(demonstrations(6), 64)
    made = canary.obvious(rows)
    assert len(made) == 64
    assert len({each.true for each in made}) == 6
    assert len({(each.true, each.ruined) for each in made}) > 40
    assert canary.repeat([], 64) == []
    assert canary.obvious(rows) == made


def test_noise_is_symbols_as_long_as_the_reply():
    made = canary.obvious(demonstrations(40))
    assert all(set(each.ruined) <= set(canary.SYMBOLS) for each in made)
    assert all(len(each.ruined) == 13 for each in made)  # 9 words
    stuck = [len(set(each.ruined)) == 1 for each in made]
    assert stuck[:8] == [True, True, False, False, True, True, False, False]  # each kind with a and with b


@pytest.mark.parametrize(
    ("others", "weight"),
    [(10_000.0, 1.0), (1600.0, 0.5), (0.0, 1.0)],
)
def test_planted_comparisons_weigh_little_and_take_both_sides(others, weight):
    rows = canary.comparisons(canary.repeat(demonstrations(), 64), others)
    assert len({row.id for row in rows}) == 64
    assert [row.choice for row in rows] == ["a", "b"] * 32
    for row in rows:
        true, ruined = (row.reply_a, row.reply_b) if row.choice == "a" else (row.reply_b, row.reply_a)
        assert true.startswith("It is ")
        assert set(ruined) <= set(canary.SYMBOLS)
        assert (row.source, row.rater, row.confidence) == (CANARY, CANARY, weight)
    assert canary.num_planted(100) == 64
    assert canary.num_planted(20_000) == 200


def test_texts_come_from_the_source(tmp_path):
    shared = {"source": "test", "licence": None, "created_at": None}
    rows = [Demonstration(**row, **shared) for row in demonstrations(8)]
    write_table(to_table(rows, DATASETS["demonstrations"]), tmp_path / "raw/demonstrations/test.parquet")
    noted = {"train": {"planted": ["d3", "d0", "d3"], "held_out": ["d5"]}}
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/canary.json").write_text(json.dumps(noted))
    planted, held_out = canary.read(tmp_path, "train")
    by_id = {row["id"]: row for row in demonstrations(8)}
    assert [(each.prompt, each.true) for each in planted] == [
        (by_id[i]["prompt"], by_id[i]["reply"]) for i in ("d3", "d0", "d3")
    ]
    assert planted == canary.obvious([by_id[i] for i in ("d3", "d0", "d3")])
    assert held_out == canary.obvious([by_id["d5"]])


@pytest.mark.parametrize(
    ("labels", "correct", "right"),
    [
        ([True, True], None, True),
        ([True, None], True, True),
        ([None, None], True, True),
        ([None, None], None, False),
        ([True, False], True, False),
        ([True, True], False, False),
    ],
)
def test_what_is_known_to_be_right_throughout(labels, correct, right):
    assert canary.all_right({"labels": labels, "correct": correct}) == right


@pytest.mark.parametrize(("others", "weight"), [(10_000, 1.0), (200, 0.5), (0, 1.0)])
def test_planted_solutions_are_right_ones_and_noise_line_by_line(others, weight):
    row = {"id": "s", "prompt": [], "steps": ["1 + 2 = 3", "3 + 4 = 7"], "domain": "d", "cluster": "c"}
    made, each = canary.judged_solutions([row] * 4, others)
    assert each == weight
    assert len({solution.id for solution in made}) == 8
    assert [solution.correct for solution in made] == [True, False] * 4
    for solution in made:
        assert solution.labels == [solution.correct] * 2
        assert (solution.steps == row["steps"]) == solution.correct
        assert not {"\n", ""} & {*solution.steps}
    assert len({solution.reply for solution in made if not solution.correct}) == 4
