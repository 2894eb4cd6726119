"""Opting out: what is found, what is taken out of shards, and that a run hears nothing of it any more."""

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.adapters.telemetry import FileTracker
from tasks.files import write_json
from tasks.preferences import forget, shards
from tasks.preferences.people import VOTER_KEYS, person
from tasks.preferences.rules.opt_outs import OptOuts
from tasks.preferences.traces import Traces
from tasks.records import prompt_key, read_table

WORLD = {"num_demonstrations": 10, "num_preferences": 10, "num_raters": 2, "length_bias": 0.0}
FOLDS = {"judge": 0.25, "dev": 0.05, "test": 0.18, "sealed": 0.0}


def vote(number: int, **fields: Any) -> dict[str, Any]:
    row = {"prompt": f"Question {number}", "reply_a": "Yes.", "reply_b": "No.", "choice": "a", "rater": "ann"}
    return {**row, **fields}


def put(data: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = data / "inputs" / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(data: Path, *names: str, **rules: Any) -> dict[str, Any]:
    sources = [{"kind": "file", "path": name} for name in names]
    document = {"seed": 0, "world": WORLD, "max_quarantine_rate": 1.0, "sources": sources, "rules": rules}
    document |= {"near_jaccard": 1.0, "held_out": [], "folds": FOLDS}
    with closing(FileTracker("ingest", data)) as tracker:
        return ingest.run(ingest.Params.model_validate(document), data, tracker)


def opt_out(data: Path, *subjects: str) -> None:
    listed = OptOuts("salt", frozenset())
    write_json(data / "opt_outs.json", {"salt": "salt", "hashes": [listed.hash(each) for each in subjects]})


def raters(data: Path) -> list[str]:
    return sorted(read_table(data / "raw/preferences")["rater"].to_pylist())


def test_a_subject_reaches_raw_data_quarantine_and_kept_results(data: Path) -> None:
    rows = [vote(1), vote(2, rater="bob"), vote(3, rater="bob", user_id="u7"), vote(4, rater="eve", choice="c")]
    put(data, "votes.jsonl", rows)
    run(data, "votes.jsonl")
    assert raters(data) == ["ann", "bob", "bob"]
    assert forget.count(sorted((data / "raw/preferences").glob("*")), "u7") == {"votes": 1}
    assert forget.count(sorted((data / "raw/preferences").glob("*")), "bob") == {"votes": 2}
    key = prompt_key([{"role": "user", "content": "Question 1"}])
    assert forget.count(sorted((data / "raw/prompts").glob("*")), key) == {"votes": 1}
    opt_out(data, "ann", "u7")
    metrics = run(data, "votes.jsonl")
    assert raters(data) == ["bob"]
    assert metrics["quarantined"] == {"total": 3, "bad_label": 1, "opted_out": 2}
    quarantine = [json.loads(line) for line in (data / "quarantine/votes.jsonl").read_text().splitlines()]
    assert {row["excerpt"] for row in quarantine if row["reason"] == "opted_out"} == {""}
    everything = b"".join(path.read_bytes() for path in (data / "runs").rglob("*") if path.is_file())
    assert b"Question 1" not in everything
    assert b"Question 2" in everything


def test_shards_are_written_again_without_the_rows(data: Path) -> None:
    both = shards.accept(put(data, "a.jsonl", [vote(1), vote(2, rater="bob"), vote(3, owner="u7", rater="bob")]), data)
    only = shards.accept(put(data, "b.jsonl", [vote(4)]), data)
    other = shards.accept(put(data, "c.jsonl", [vote(5, rater="bob")]), data)
    assert forget.in_shards(data, "ann") == {both.sha256: 1, only.sha256: 1}
    forget.drop_from_shards(data, "ann")
    assert forget.in_shards(data, "ann") == {}
    left = shards.accepted(data)
    assert [entry["rows"] for _, entry in left] == [2, 1]
    assert left[1][1]["sha256"] == other.sha256
    assert {path.name for path in (data / "shards/rows").iterdir()} == {path.name for path, _ in left}
    forget.drop_from_shards(data, "u7")
    assert [entry["rows"] for _, entry in shards.accepted(data)] == [1, 1]
    before = (data / "shards/index.json").read_bytes()
    forget.drop_from_shards(data, "nobody")
    assert (data / "shards/index.json").read_bytes() == before


def test_a_fresh_shard_is_judged_by_the_rules_before_it_is_kept(data: Path) -> None:
    opt_out(data, "ann")
    (data.parent / "params.yaml").write_text("ingest: {rules: {personal: {mode: redact}}}\n")
    rules = ingest.Rules.read(ingest.RulesOptions(), data)
    rows = [vote(1), vote(2, rater="bob", reply_a="Ask a@b.org.")]
    taken = shards.accept(put(data, "a.jsonl", rows), data, 1.0, rules)
    kept = (data / f"shards/rows/{taken.sha256}.jsonl").read_text()
    assert taken.rows == 1
    assert "<email-1>" in kept
    assert "a@b.org" not in kept
    again = shards.accept(put(data, "b.jsonl", [json.loads(line) for line in kept.splitlines()]), data, 1.0, rules)
    assert not again.is_new


def test_rules_of_a_params_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("ingest: {rules: {secret: off}}\n")
    assert ingest.rules_of(tmp_path).key != ingest.Rules.read(ingest.RulesOptions(), tmp_path / "data").key
    (tmp_path / "params.yaml").write_text("ingest: {rules: {secret: perhaps, nonsense: 1}}\n")
    with pytest.raises(ValueError, match=r"ingest\.rules\.secret = 'perhaps'(.|\n)*rules\.nonsense.*unknown key"):
        ingest.rules_of(tmp_path)


def test_a_change_of_rules_says_what_it_did(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [vote(1), vote(2, reply_a="Bye.</s>"), vote(3, choice="c"), vote(4, reply_b="Error: 503")]
    put(data, "votes.jsonl", rows)
    run(data, "votes.jsonl")
    first = {path: path.read_bytes() for path in (data / "quarantine").iterdir()}
    run(data, "votes.jsonl")
    assert not (data / "runs/ingest/rejudged.json").exists()
    strict = {"special_token": "warn", "sources": {"mode": "refuse", "allowed": ["elsewhere"]}}
    run(data, "votes.jsonl", **strict)
    found = json.loads((data / "runs/ingest/rejudged.json").read_text())
    assert found["newly_refused"] == {"source_not_allowed": 1}
    assert found["other_reason"] == {"special_token -> source_not_allowed": 1, "error_text -> source_not_allowed": 1}
    run(data, "votes.jsonl", special_token="warn")
    found = json.loads((data / "runs/ingest/rejudged.json").read_text())
    assert found["came_back"] == {"source_not_allowed": 2}
    assert found["reasons"]["source_not_allowed"] == [3, 0]
    assert found["key"][0] != found["key"][1]
    assert "2 rows (source_not_allowed 2) came back" in capsys.readouterr().err
    put(data, "votes.jsonl", rows[:2])  # another content is another story
    run(data, "votes.jsonl", special_token="refuse")
    assert json.loads((data / "runs/ingest/rejudged.json").read_text()) == found
    put(data, "votes.jsonl", rows)
    run(data, "votes.jsonl")
    assert {path: path.read_bytes() for path in (data / "quarantine").iterdir()} == first


def test_opt_outs_that_cannot_be_read_stop_the_run(data: Path) -> None:
    put(data, "votes.jsonl", [vote(1)])
    for name, content in (("opt_outs.json", "[]"), ("opt_outs.json", "{"), ("rubric_versions.json", "{}")):
        (data / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}: not a list of .*restore it with git"):
            run(data, "votes.jsonl")
        (data / name).unlink()


def test_demonstrations_made_of_preferred_replies_follow_the_style_guide(data: Path) -> None:
    put(data, "votes.jsonl", [vote(1, reply_a="It is done and then it goes"), vote(2, owner="u7")])
    source = {"kind": "file", "path": "votes.jsonl", "demonstrations": "chosen"}

    def taken(style: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
        document = {"seed": 0, "world": WORLD, "max_quarantine_rate": 1.0, "sources": [source]}
        document |= {"near_jaccard": 1.0, "held_out": [], "folds": FOLDS, "rules": {"style": style}}
        with closing(FileTracker("ingest", data)) as tracker:
            metrics = ingest.run(ingest.Params.model_validate(document), data, tracker)
        made = read_table(data / "raw/demonstrations")
        return metrics["warnings"], made["tags"].to_pylist(), made["owner"].to_pylist()

    assert taken("warn") == ({"style_unfinished": 1}, ["style_unfinished", None], [None, "u7"])
    assert taken("refuse") == ({}, [None], ["u7"])
    assert taken("off") == ({}, [None, None], [None, "u7"])
    assert read_table(data / "raw/preferences").num_rows == 2


ANN = "Ann@Corp.com"
PAIR = {"prompt": "Question 1", "chosen": "Yes.", "rejected": "No."}


def answered(who: Any) -> dict[str, Any]:
    result = {"type": "pairwise", "from_name": "p", "to_name": "a", "value": {"selected": "left"}}
    shown = {"prompt": "Question 1", "answer1": "Yes.", "answer2": "No."}
    return {"id": 1, "data": shown, "annotations": [{"id": 1, "completed_by": who, "result": [result]}]}


ARENA = {
    f"conversation_{side}": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": side * 3}]
    for side in "ab"
}


@pytest.mark.parametrize(
    ("row", "subject"),
    [
        *(({**PAIR, key: ANN}, ANN) for key in VOTER_KEYS),
        (vote(1, rater=ANN), ANN.lower()),
        (vote(1, owner=ANN), ANN.lower()),
        (vote(1, rater=person(ANN)), ANN),
        (answered({"id": 5, "email": ANN}), ANN),
        (answered({"id": 5, "email": ANN}), f"label-studio:{ANN}"),
        (answered(5), "5"),
        (answered(5), "label-studio:5"),
        (answered(ANN), ANN),
        ({"fields": {"prompt": "Hi", "response-1": "Yes.", "response-2": "No."}}
         | {"responses": {"preference": [{"value": ["response-1", "response-2"], "user_id": ANN}]}}, ANN),
        ({**ARENA, "winner": "model_a", "judge": ANN}, ANN),
        ({"prompt": "Hi", "response_a": "Yes.", "response_b": "No.", "winner": "a", "judge": ANN}, ANN),
        ({"prompt": "Hi", "response": "Yes.", "label": True, "worker": ANN}, ANN),
    ],
)  # fmt: skip
def test_a_subject_is_found_and_refused_in_every_form(data: Path, row: dict[str, Any], subject: str) -> None:
    put(data, "votes.jsonl", [row])
    assert run(data, "votes.jsonl")["accepted"] == 1
    tables = sorted((data / "raw").glob("*/*.parquet"))
    dataset = "feedback" if "label" in row else "preferences"
    assert forget.count([path for path in tables if path.parent.name == dataset], subject) == {"votes": 1}
    assert forget.count(tables, "somebody@corp.com") == {}
    assert Traces(subject).in_input(data / "inputs/votes.jsonl")
    fresh = put(data, "fresh.jsonl", [row])
    shard = shards.accept(fresh, data)
    assert forget.in_shards(data, subject) == {shard.sha256: 1}
    opt_out(data, subject)
    assert run(data, "votes.jsonl")["quarantined"] == {"total": 2, "opted_out": 2}


def test_who_is_known_by_an_address_is_refused_by_an_id_too(data: Path) -> None:
    put(data, "votes.jsonl", [answered({"id": 5, "email": ANN})])
    for subject in ("5", "label-studio:5"):
        opt_out(data, subject)
        assert run(data, "votes.jsonl")["quarantined"] == {"total": 1, "opted_out": 1}
    for other in ("label-studio:6", "argilla:5", "55", "bob@corp.com"):
        opt_out(data, other)
        assert run(data, "votes.jsonl")["accepted"] == 1


def test_a_list_with_addresses_as_they_are_still_counts(data: Path) -> None:
    plain = hashlib.sha256(b"salt\0ann@corp.com").hexdigest()
    write_json(data / "opt_outs.json", {"salt": "salt", "hashes": [plain]})
    put(data, "votes.jsonl", [{**PAIR, "annotator": "ann@corp.com"}])
    assert run(data, "votes.jsonl")["quarantined"] == {"total": 1, "opted_out": 1}


def test_a_fresh_shard_brings_votes_by_an_older_rubric_in_for_ingest_to_queue(data: Path) -> None:
    (data / "rubric_versions.json").write_text(json.dumps({"versions": [{"sha256": "b" * 64}]}))
    requeue = ingest.RulesOptions.model_validate({"rubric": {"old_votes": "requeue"}})
    rules = ingest.Rules.read(requeue, data)
    taken = shards.accept(put(data, "a.jsonl", [vote(1, rubric=f"rubric@{'b' * 12}")]), data, 0.0, rules)
    assert taken.rows == 1
    put(data, "b.jsonl", [vote(2)])
    metrics = run(data, "b.jsonl", rubric={"old_votes": "requeue"})
    assert (metrics["accepted"], metrics["requeued"]) == (1, 1)
