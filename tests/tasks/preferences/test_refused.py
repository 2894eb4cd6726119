"""What was refused of a fresh shard: quarantined, judged again by other rules, gone with whom it names."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.files import write_json
from tasks.preferences import forget, refused, shards
from tasks.preferences.rules.opt_outs import OptOuts
from tasks.preferences.screen import BadFileError, HeldError
from tasks.records import prompt_key
from tests.tasks.preferences import test_forget
from tests.tasks.preferences.test_forget import opt_out, put, vote

LIMIT = 1.0  # of refused rows: files of few rows


def rules(data: Path, **options: Any) -> ingest.Rules:
    return ingest.Rules.read(ingest.RulesOptions.model_validate(options), data)


def accept(data: Path, *rows: bytes | dict[str, Any], name: str = "fresh.jsonl", **options: Any) -> shards.Accepted:
    """Send rows, some of them as bytes, as a file."""
    path = data.parent / name
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return shards.accept(path, data, LIMIT, rules(data), **options)


def run(data: Path, **options: Any) -> dict[str, Any]:
    """Ingest the shards after a file of one good row, which is not counted."""
    put(data, "known.jsonl", [vote(100, rater="zoe")])
    metrics = test_forget.run(data, "known.jsonl", **options)
    return {**metrics, "input": metrics["input"] - 1, "accepted": metrics["accepted"] - 1}


def quarantine(data: Path) -> dict[tuple[int, str], str]:
    """{(line, file's name): reason} of all that is refused."""
    return {
        (row["line"], path.stem): row["reason"]
        for path in sorted((data / "quarantine").glob("*.jsonl"))
        for row in map(json.loads, path.read_text().splitlines())
    }


BAD: list[bytes | dict[str, Any]] = [
    vote(2, choice="c"),
    vote(3, reply_a="Bye.</s>"),
    b'{"prompt": "Question \xff", "reply_a": "x", "reply_b": "y", "choice": "a"}',
    b'{"prompt": "Question 5", ',
    vote(1),  # again
    vote(6),
    vote(6, choice="b"),  # against oneself: both go
    vote(7, id="../x"),
]
REASONS = ["bad_label", "special_token", "bad_encoding", "malformed_json", "exact_duplicate"]
REASONS += ["self_contradiction", "self_contradiction", "bad_id"]


def test_every_row_of_a_shard_is_accepted_or_quarantined(data: Path) -> None:
    taken = accept(data, vote(1), *BAD)
    assert taken.rows == 1
    assert sum(taken.refused.values()) == len(BAD)
    metrics = run(data)
    assert (metrics["input"], metrics["accepted"]) == (1 + len(BAD), 1)
    assert metrics["quarantined"]["total"] == len(BAD)
    name = f"shard-{taken.sha256[:12]}-refused"
    assert quarantine(data) == {(line, name): reason for line, reason in enumerate(REASONS, 2)}


def test_what_a_rule_refused_comes_back_with_the_rule(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accept(data, vote(1), *BAD)
    run(data)
    metrics = run(data, special_token="warn")
    assert (metrics["accepted"], metrics["warnings"]["special_token"]) == (2, 1)
    assert "1 rows (special_token 1) came back" in capsys.readouterr().err
    metrics = run(data, language={"mode": "refuse", "allowed": ["de"]})
    assert metrics["input"] == 1 + len(BAD)


def test_the_same_file_again_changes_nothing(data: Path) -> None:
    first = accept(data, vote(1), *BAD)
    index, files = (data / "shards/index.json").read_bytes(), sorted((data / "shards/rows").iterdir())
    again = accept(data, vote(1), *BAD)
    assert (again.sha256, again.is_new, again.refused) == (first.sha256, False, first.refused)
    assert (data / "shards/index.json").read_bytes() == index
    assert sorted((data / "shards/rows").iterdir()) == files
    assert not list((data / "runs/shards").iterdir())
    accept(data, vote(1), *BAD, vote(9, choice="?"))  # one row more, which is refused
    assert run(data)["quarantined"]["total"] == len(BAD) + 1


def test_a_shard_without_refused_rows_has_the_entry_it_had(data: Path) -> None:
    taken = accept(data, vote(1))
    (entry,) = json.loads((data / "shards/index.json").read_text())["shards"]
    assert entry == {"dataset": "preferences", "rows": 1, "sha256": taken.sha256}


def test_rows_in_several_files_lines_and_formats_keep_their_verdict(data: Path) -> None:
    folder = data.parent / "many"
    folder.mkdir()
    good = "".join(json.dumps(vote(n)) + "\n" for n in range(10, 40))
    (folder / "a.jsonl").write_text(json.dumps(vote(2, choice="c")) + "\n" + good)
    (folder / "b.jsonl").write_text(json.dumps(vote(2, choice="c")) + "\n")  # the same line of another file
    (folder / "c.jsonl").write_text(json.dumps({"instruction": "x", "output_1": "a", "output_2": "b", "preference": 1}))
    taken = shards.accept(folder, data, LIMIT, rules(data))
    assert taken.refused == {"bad_label": 2, "other_format": 1}
    assert run(data)["quarantined"] == {"total": 3, "bad_label": 2, "other_format": 1}


def test_rows_that_say_something_together_are_refused_together(data: Path) -> None:
    def replies(question: str, *scores: int) -> list[bytes | dict[str, Any]]:
        attributes = {"correctness": 3, "coherence": 3, "complexity": 3, "verbosity": 3}
        rows = enumerate(scores)
        return [{"prompt": question, "response": f"{n} it is", "helpfulness": score} | attributes for n, score in rows]

    rows = [*replies("First?", 4, 1), *replies("Second?", 2)]
    taken = accept(data, *rows)
    metrics = run(data)
    assert taken.refused == {"single_reply": 1}
    assert metrics["quarantined"] == {"total": 1, "single_reply": 1}


def test_a_cells_file_keeps_verdicts(data: Path) -> None:
    path = data.parent / "votes.csv"
    path.write_text("prompt,reply_a,reply_b,choice\nHi,Hello.,Go.,a\nHi there,Hello.\n")
    shards.accept(path, data, LIMIT, rules(data))
    assert run(data)["quarantined"] == {"total": 1, "cell_count": 1}


def test_the_clock_lets_nothing_back_in(data: Path) -> None:
    late = vote(2, created_at="2090-01-01T00:00:00Z")
    accept(data, vote(1), late)
    metrics = run(data)
    assert metrics["quarantined"] == {"total": 1, "time": 1}


def test_what_must_not_be_kept_is_not(data: Path) -> None:
    opt_out(data, "bob", prompt_key([{"role": "user", "content": "Question 9"}]))
    rows: list[bytes | dict[str, Any]] = [
        vote(1),
        vote(2, rater="bob"),
        vote(3, rater="bob", choice="c"),
        vote(9, choice="c"),
        b'{"prompt": "Question 4", "rater": "bob", "reply_a"',
        vote(5, reply_a="Write to jo@example.org.", choice="c"),
        vote(6, reply_a="Take AKIAIOSFODNN7EXAMPLE of mine."),
        vote(7, choice="c"),
    ]
    taken = accept(data, *rows)
    assert taken.refused == {"opted_out": 1, "bad_label": 4, "malformed_json": 1, "secret": 1}
    ((path, _),) = shards.refused_files(data, shards.accepted(data)[0][1])
    held = path.read_text()
    assert "Question 7" in held
    assert not [text for text in ("bob", "Question 9", "Question 4", "jo@", "AKIA") if text in held]
    assert run(data)["quarantined"] == {"total": 7, **taken.refused}


def test_forgetting_reaches_refused_rows(data: Path) -> None:
    rows = [vote(1, rater="bob"), vote(2, choice="c"), vote(3, choice="c", rater="eve"), b'{"rater": "ann", "prompt']
    taken = accept(data, *rows)
    assert forget.in_shards(data, "ann") == {taken.sha256: 2}
    forget.drop_from_shards(data, "ann")
    assert forget.in_shards(data, "ann") == {}
    ((path, entry),) = shards.accepted(data)
    assert (entry["sha256"], entry["rows"]) == (taken.sha256, 1)
    assert [kept["line"] for lost, _ in shards.refused_files(data, entry) for kept in refused.lines(lost)] == [3]
    assert {file.name for file in path.parent.iterdir()} == shards.names(entry)
    forget.drop_from_shards(data, "eve")
    assert [set(entry) for _, entry in shards.accepted(data)] == [{"dataset", "rows", "sha256"}]
    forget.drop_from_shards(data, "bob")
    assert shards.accepted(data) == []
    assert not list(path.parent.iterdir())


def hold_all(dataset: str, folder: Path) -> tuple[list[str], list[str], dict[str, Any]]:
    return ["shift_hold: all of it"], [], {}


def test_a_held_shard_keeps_what_was_refused_and_forgets_it(data: Path) -> None:
    rows = [vote(1, rater="bob"), vote(2, choice="c"), vote(3, choice="c", rater="eve")]
    with pytest.raises(HeldError):
        accept(data, *rows, judge=hold_all)
    (folder,) = shards.held(data)
    assert forget.in_held_shards(data, "ann") == {folder.name: 1}
    forget.drop_from_held(data, "ann")
    assert forget.in_held_shards(data, "ann") == {}
    assert len(list(folder.iterdir())) == 3
    shards.release(folder.name, data, "jo", "looked at it")
    assert run(data)["quarantined"] == {"total": 1, "bad_label": 1}
    assert not list((data / "held").iterdir())


def test_lines_that_were_changed_or_are_missing_are_an_error(data: Path) -> None:
    accept(data, vote(1), vote(2, choice="c"))
    ((path, _),) = shards.refused_files(data, shards.accepted(data)[0][1])
    path.write_text(path.read_text() + "\n")
    with pytest.raises(BadFileError, match="hash_mismatch"):
        run(data)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        run(data)


def test_somebody_who_opts_out_later_is_heard_of_no_more(data: Path) -> None:
    accept(data, vote(1, rater="bob"), vote(2, reply_a="Bye.</s>"))
    assert run(data)["quarantined"] == {"total": 1, "special_token": 1}
    write_json(data / "opt_outs.json", {"salt": "salt", "hashes": [OptOuts("salt", frozenset()).hash("ann")]})
    assert run(data)["quarantined"] == {"total": 1, "opted_out": 1}
