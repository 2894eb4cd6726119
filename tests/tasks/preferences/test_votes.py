"""Votes: one canonical order for a pair however it was shown, and nothing held but short numbers."""

import numpy as np
import pytest

from tasks.preferences import votes
from tasks.preferences.votes import BOTH_BAD, FIRST, SECOND, TIE, UNSURE
from tests.tasks.preferences.rater_votes import read, row, stored


def test_a_pair_is_the_same_item_whichever_way_round_it_was_shown(tmp_path):
    found = read(
        tmp_path,
        [
            row(1, "ann", "a"),
            row(1, "bob", "b", reply_a="No.", reply_b="It is so."),
            row(1, "cid", "a", reply_a="No.", reply_b="It is so."),
            row(2, "ann", "a"),
        ],
    )
    assert found.item[0] == found.item[1] == found.item[2] != found.item[3]
    assert found.value.tolist() == [FIRST, FIRST, SECOND, FIRST]
    assert found.picked_first.tolist() == [True, False, True, True]
    assert found.lead.tolist() == [1, 1, 1, 1]  # "It is so." sorts first and is longer


def test_ties_and_both_bad_stay_apart_and_are_not_turned(tmp_path):
    found = read(tmp_path, [row(n, "ann", c, reply_a="z") for n, c in enumerate(("tie", "both_bad", "unsure"))])
    assert found.swapped.all()
    assert found.value.tolist() == [TIE, BOTH_BAD, UNSURE]


def test_what_a_row_says_of_its_rater_and_its_circumstances(tmp_path):
    rows = [
        row(1, "bob", seconds=3.5, created_at="2026-01-02T23:59:00+05:00", rubric="r@1", domain="y"),
        row(2, "ann"),
        row(3, "source:hh"),
    ]
    found = read(tmp_path, rows)
    assert found.raters == ("ann", "bob", "source:hh")
    assert found.rater.tolist() == [1, 0, 2]
    assert found.named.tolist() == [True, True, False]
    assert [found.days[d] for d in found.day] == ["2026-01-02", "", ""]
    assert [found.rubrics[r] for r in found.rubric] == ["r@1", "", ""]
    assert [found.domains[d] for d in found.domain] == ["y", "x", "x"]
    assert found.seconds[0] == 3.5
    assert np.isnan(found.seconds[1:]).all()
    assert found.chars.tolist() == [len("user\0Question 1?") + len("It is so.") + len("No.")] * 3


def test_a_longer_dialogue_is_another_item(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    last = {"role": "user", "content": "Question 1?"}
    found = read(tmp_path, [row(1), row(1, "bob", prompt=[*turns, last]), row(1, "cid", prompt=[last])])
    assert found.item[0] == found.item[2] != found.item[1]


def test_several_files_and_batches_agree_with_one(tmp_path, monkeypatch):
    rows = [row(n % 5, f"rater-{n}", domain="xyz"[n % 3]) for n in range(20)]
    whole = read(tmp_path / "one", rows)
    stored(tmp_path / "two", rows[:7], "a")
    stored(tmp_path / "two", [], "b")
    stored(tmp_path / "two", rows[7:], "c")
    monkeypatch.setattr(votes, "_BATCH", 3)
    parts = votes.read(tmp_path / "two")
    for name in ("item", "rater", "value", "domain", "chars", "lead"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
    assert parts.raters == whole.raters
    assert parts.file.tolist() == [0] * 7 + [2] * 13


def test_no_rows_are_no_votes_and_no_files_are_an_error(tmp_path):
    assert len(read(tmp_path / "empty", [])) == 0
    with pytest.raises(FileNotFoundError, match="run the stage that writes it"):
        votes.read(tmp_path)


def test_parts_of_a_source_are_one_file(tmp_path):
    for number, name in enumerate(("a", "a_00001", "b")):
        stored(tmp_path, [row(number, "ann", "a")], name)
    found = votes.read(tmp_path)
    assert found.files == ("a", "b")
    assert found.file.tolist() == [0, 0, 1]
