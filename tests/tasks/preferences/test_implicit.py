"""Agreement of conduct with verdicts that were asked for, and what a signal weighs."""

from pathlib import Path
from typing import Any

import pytest

from tasks.preferences import canonical, implicit
from tasks.preferences.formats.building import compare
from tasks.records import SIGNALS, Feedback, Preference, signal_weight, to_table, write_table


def row(prompt: str, desirable: bool, signal: str, rater: str = "ann", reply: str = "Yes.") -> Feedback:
    value = {"prompt": prompt, "reply": reply, "desirable": desirable, "signal": signal, "rater": rater}
    (record,) = canonical.feedback(value, "test")
    assert isinstance(record, Feedback)
    return record


def measured(folder: Path, rows: list[Any]) -> dict[str, tuple[int, int]]:
    write_table(to_table(rows, Feedback), folder / "rows.parquet")
    return implicit.agreement(folder)


def test_agreement_counts_conduct_on_replies_that_verdicts_decide(tmp_path: Path) -> None:
    rows = [
        row("p", True, "explicit"),
        row("p", True, "explicit", "bob"),
        row("p", False, "explicit", "eve"),
        row("p", True, "upvote", reply=" YES."),
        row("p", False, "regeneration"),
        row("q", True, "explicit"),
        row("q", False, "explicit", "bob"),
        row("q", True, "upvote"),  # even: nothing to agree with
        row("r", True, "upvote"),  # nobody was asked
        row("s", False, "explicit"),
        row("s", False, "upvote"),
        row("s", True, "upvote", "bob"),
    ]
    assert measured(tmp_path, rows) == {"upvote": (3, 2), "regeneration": (1, 0)}
    assert measured(tmp_path, rows[:3]) == {}
    assert measured(tmp_path, rows[3:5]) == {}


def test_a_reply_that_wins_more_than_it_loses_is_liked(tmp_path: Path) -> None:
    def vote(prompt: str, choice: str, rater: str) -> Preference:
        return compare([{"role": "user", "content": prompt}], "Yes.", "No.", choice, "test", rater)

    votes = [vote("p", "a", "ann"), vote("p", "a", "bob"), vote("p", "b", "eve"), vote("p", "tie", "ida")]
    votes += [vote("q", "a", "ann"), vote("q", "b", "bob"), vote("r", "tie", "ann"), vote("s", "b", "ann")]
    write_table(to_table(votes, Preference), tmp_path / "preferences/rows.parquet")
    rows = [
        row("p", True, "upvote"),
        row("p", True, "upvote", "bob", reply=" no."),  # lost
        row("p", False, "regeneration"),
        row("p", True, "explicit"),
        row("q", True, "upvote"),  # even
        row("r", True, "upvote"),  # undecided
        row("s", False, "length"),
        row("t", True, "upvote"),  # never compared
    ]
    write_table(to_table(rows, Feedback), tmp_path / "feedback/rows.parquet")
    found = implicit.agreement_with_comparisons(tmp_path / "feedback", tmp_path / "preferences")
    assert found == {"upvote": (2, 1), "regeneration": (1, 0), "length": (1, 1)}
    write_table(to_table(rows[3:4], Feedback), tmp_path / "feedback/rows.parquet")
    assert implicit.agreement_with_comparisons(tmp_path / "feedback", tmp_path / "preferences") == {}


def test_a_signal_weighs_what_its_noise_leaves() -> None:
    assert signal_weight(0.25) == pytest.approx(0.25)
    assert [row("p", True, signal).weight for signal in ("explicit", "regeneration")] == [1.0, pytest.approx(0.09)]
    assert all(signal_weight(noise) <= 0.25 for signal, noise in SIGNALS.items() if signal != "explicit")
    given = {"prompt": "p", "reply": "r", "desirable": True, "signal": "length", "noise": 0.1, "weight": 0.5}
    (record,) = canonical.feedback(given, "test")
    assert isinstance(record, Feedback)
    assert (record.noise, record.weight) == (0.1, 0.5)
