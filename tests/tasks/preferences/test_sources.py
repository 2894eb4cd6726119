"""Whole sources: every row accounted for, duplicates and contradictions, parquet, shards, folds."""

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.preferences import shards
from tasks.preferences.containers import open_rows
from tasks.preferences.duplicates import Index
from tasks.preferences.folds import FOLDS, fold_of
from tasks.preferences.screen import BadFileError, Row
from tasks.preferences.sources import Source, read
from tasks.preferences.staging import Staging, Tally, publish
from tasks.records import read_table

VOTE: dict[str, Any] = {"prompt": "Hi", "reply_a": "Hello.", "reply_b": "Go.", "choice": "a", "rater": "ann"}
SWAPPED = {**VOTE, "reply_a": "Go.", "reply_b": "Hello.", "choice": "b"}


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def take(folder: Path, *files: list[Any], rate: float | None = 1.0, **options: Any) -> tuple[dict[str, Tally], Path]:
    """Ingest lists of rows as sources s0, s1, ...; the tallies and the folder with raw/ and quarantine/."""
    index, tallies = Index(), {}
    with closing(Staging(folder / "staged")) as staging:
        for number, rows in enumerate(files):
            path = write(folder / f"s{number}.jsonl", rows)
            found = source(path, name=f"s{number}", max_quarantine_rate=rate, **options)
            tallies[found.name] = read(found, staging, index)
    publish(staging, index.contradicted, tallies, folder / "raw", folder / "quarantine")
    return tallies, folder


def source(path: Path, name: str = "s", **options: Any) -> Source:
    warnings: Counter[str] = Counter()
    return Source(name=name, where=path, rows=open_rows(path, warnings), warnings=warnings, **options)


def tally_of(found: Source, folder: Path) -> Tally:
    with closing(Staging(folder / "staged")) as staging:
        return read(found, staging, Index())


def quarantine(folder: Path, source: str = "s0") -> list[tuple[int, str]]:
    lines = (folder / "quarantine" / f"{source}.jsonl").read_text().splitlines()
    return [(row["line"], row["reason"]) for row in map(json.loads, lines)]


def test_rows_and_refusals_add_up_to_the_input(tmp_path: Path) -> None:
    bad = {**VOTE, "choice": "c"}
    tallies, folder = take(tmp_path, [VOTE, bad, {**VOTE, "rater": "bob", "extra": 1}])
    tally = tallies["s0"]
    assert (tally.input, tally.accepted, tally.quarantined, tally.format) == (
        3,
        2,
        {"bad_label": 1},
        "canonical_preferences",
    )
    assert tally.warnings == {"unknown_field": 1}
    assert tally.unknown_fields == {"extra": 1}
    assert read_table(folder / "raw/preferences").num_rows == 2
    assert read_table(folder / "raw/safety").num_rows == 0
    (line,) = (folder / "quarantine/s0.jsonl").read_text().splitlines()
    refusal = json.loads(line)
    assert refusal["byte_offset"] == len(json.dumps(VOTE)) + 1
    assert "Hello" not in refusal["excerpt"]


def test_preferences_give_distinct_prompts_and_demonstrations_where_asked(tmp_path: Path) -> None:
    votes = [VOTE, {**VOTE, "rater": "bob"}, {**VOTE, "prompt": "Yo", "choice": "tie"}]
    tallies, folder = take(tmp_path, votes, imitate_chosen=True)
    assert tallies["s0"].records == {"preferences": 3, "prompts": 2, "demonstrations": 1}
    assert read_table(folder / "raw/demonstrations")["reply"].to_pylist() == ["Hello."]
    assert take(tmp_path / "b", votes)[0]["s0"].records["demonstrations"] == 0


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (VOTE, "exact_duplicate"),
        ({**VOTE, "reply_a": "HELLO. "}, "exact_duplicate"),
        (SWAPPED, "duplicate_swapped"),
        ({**VOTE, "rater": "bob"}, None),
        ({**VOTE, "rater": "bob", "choice": "b"}, None),  # raters may disagree
        ({**VOTE, "choice": "unsure"}, None),
        ({**VOTE, "prompt": "Yo"}, None),
        ({**VOTE, "reply_b": "Go!"}, None),
    ],
)
def test_a_repeated_vote_is_kept_once(tmp_path: Path, second: dict[str, Any], reason: str | None) -> None:
    _, folder = take(tmp_path, [VOTE, second])
    assert quarantine(folder) == ([(2, reason)] if reason else [])


def test_a_rater_who_contradicts_themselves_is_not_heard_on_that_pair(tmp_path: Path) -> None:
    tallies, folder = take(tmp_path, [VOTE, {**VOTE, "rater": "bob"}, {**SWAPPED, "choice": "a"}, VOTE])
    assert sorted(quarantine(folder)) == [(n, "self_contradiction") for n in (1, 3, 4)]
    assert read_table(folder / "raw/preferences")["rater"].to_pylist() == ["bob"]
    assert (tallies["s0"].accepted, tallies["s0"].records["preferences"]) == (1, 1)
    rows = map(json.loads, (folder / "quarantine/s0.jsonl").read_text().splitlines())
    excerpts = {row["line"]: row["excerpt"] for row in rows}
    assert excerpts[1].startswith('{"prompt": [{')
    assert all('"reply_a":' in said and "Hello" not in said for said in excerpts.values())


def test_a_contradiction_reaches_across_sources(tmp_path: Path) -> None:
    _, folder = take(tmp_path, [VOTE], [{**VOTE, "choice": "b"}, {**VOTE, "prompt": "Yo"}])
    assert quarantine(folder, "s0") == [(1, "self_contradiction")]
    assert quarantine(folder, "s1") == [(1, "self_contradiction")]
    assert read_table(folder / "raw/preferences").num_rows == 1


def test_rows_without_a_rater_may_disagree_but_not_repeat(tmp_path: Path) -> None:
    pair = {"prompt": "Hi", "chosen": "Hello.", "rejected": "Go."}
    turned = {"prompt": "Hi", "chosen": "Go.", "rejected": "Hello."}
    _, folder = take(tmp_path, [pair, turned, pair])
    assert quarantine(folder) == [(3, "exact_duplicate")]


def test_an_id_names_one_row(tmp_path: Path) -> None:
    rows = [{**VOTE, "id": "x"}, {**VOTE, "id": "x", "prompt": "Yo"}]
    assert quarantine(take(tmp_path, rows)[1]) == [(2, "id_conflict")]
    # What was refused for its id was not heard: the same vote under an id of its own counts.
    assert quarantine(take(tmp_path / "c", [*rows, {**VOTE, "prompt": "Yo"}])[1]) == [(2, "id_conflict")]
    safety = [{"prompt": "Hi", "expected": "assist"}] * 2
    assert quarantine(take(tmp_path / "b", safety)[1]) == [(2, "exact_duplicate")]


def test_a_prompt_keeps_the_cluster_it_was_first_seen_in(tmp_path: Path) -> None:
    _, folder = take(tmp_path, [{"prompt": "Hi", "reply": "x", "cluster": "declared"}], [VOTE])
    for dataset in ("preferences", "prompts"):
        assert read_table(folder / "raw" / dataset)["cluster"].to_pylist() == ["declared"]


def test_too_many_refused_rows_refuse_the_file_but_repeats_do_not(tmp_path: Path) -> None:
    bad = [{**VOTE, "rater": "x", "choice": "c"}, {**VOTE, "confidence": 2}]
    good = [{**VOTE, "rater": str(n)} for n in range(8)]
    with pytest.raises(BadFileError, match=r"2 of 10 rows are refused \(bad_label 1, range 1\).*= 0.1;"):
        take(tmp_path / "a", good + bad, rate=0.1)
    take(tmp_path / "b", good + bad, rate=0.2)
    take(tmp_path / "c", good * 5, rate=0.0)


def test_a_latin_1_file_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    rows = [json.dumps({**VOTE, "rater": str(n), "prompt": "café"}, ensure_ascii=False) for n in range(9)]
    path.write_bytes("\n".join([*rows, json.dumps(VOTE)]).encode("latin-1"))
    source = Source(name="f", where=path, rows=open_rows(path, Counter()), warnings=Counter(), max_quarantine_rate=0.05)
    with pytest.raises(BadFileError, match="wrong_encoding: 9 of 10 rows"):
        read(source, Staging(tmp_path / "staged"), Index())


def test_parquet_takes_the_same_path(tmp_path: Path) -> None:
    path = tmp_path / "votes"
    rows = [VOTE, {**VOTE, "choice": "c"}, {**VOTE, "rater": "\x01"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = list(open_rows(path, Counter()))
    assert [getattr(row, "reason", "ok") for row in found] == ["ok", "ok", "control_char"]
    assert isinstance(found[0], Row)
    assert found[0].value == VOTE


@pytest.mark.parametrize("harm", ["torn", "no magic", "flipped bit", "bytes column"])
def test_a_bad_parquet_file_is_refused(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "votes.parquet"
    column = [b"\x80\x04pickle"] * 50 if harm == "bytes column" else [f"text {n}" * 20 for n in range(50)]
    pq.write_table(pa.table({"prompt": column}), path, write_page_checksum=True, use_dictionary=False)
    content = bytearray(path.read_bytes())
    if harm == "torn":
        content = content[:-50]
    elif harm == "no magic":
        content[:4] = content[-4:] = b"NOPE"
    elif harm == "flipped bit":
        content[400] ^= 1  # in a page: headers carry no checksum
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="parquet_corrupt"):
        list(open_rows(path, Counter()))


def test_a_shard_is_accepted_once_and_read_again(tmp_path: Path) -> None:
    first = shards.accept(write(tmp_path / "monday.jsonl", [VOTE, {**VOTE, "rater": "bob"}]), tmp_path)
    assert (first.dataset, first.rows, first.is_new) == ("preferences", 2, True)
    again = shards.accept(write(tmp_path / "tuesday.jsonl", [VOTE, {**VOTE, "rater": "bob"}]), tmp_path)
    assert again == shards.Accepted("preferences", first.sha256, 2, is_new=False)
    other = shards.accept(write(tmp_path / "wednesday.jsonl", [{**VOTE, "rater": "eve"}]), tmp_path)
    assert [entry["sha256"] for _, entry in shards.accepted(tmp_path)] == [first.sha256, other.sha256]
    path, entry = shards.accepted(tmp_path)[0]
    tally = tally_of(shards.source(path, entry), tmp_path)
    assert (tally.accepted, tally.quarantined.total()) == (2, 0)


def test_a_refused_shard_leaves_no_trace(tmp_path: Path) -> None:
    for rows in ([{**VOTE, "choice": "c"}], [{"what": 1}]):
        with pytest.raises(BadFileError):
            shards.accept(write(tmp_path / "bad.jsonl", rows), tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        shards.accept(tmp_path / "none.jsonl", tmp_path)
    assert shards.accepted(tmp_path) == []
    assert not list(tmp_path.glob("data/shards/rows/*"))


def test_a_changed_or_missing_shard_is_an_error(tmp_path: Path) -> None:
    shard = shards.accept(write(tmp_path / "f.jsonl", [VOTE]), tmp_path)
    path = tmp_path / "shards/rows" / f"{shard.sha256}.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(BadFileError, match="hash_mismatch"):
        shards.accepted(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        shards.accepted(tmp_path)


SHARES = {"test": 0.2, "dev": 0.05, "judge": 0.25}


def test_folds_have_their_shares_and_are_stable() -> None:
    folds = Counter(fold_of(f"cluster {n}", SHARES) for n in range(20_000))
    for fold, share in {**SHARES, "train": 0.5}.items():
        assert folds[fold] / 20_000 == pytest.approx(share, abs=0.012)
    assert set(folds) == set(FOLDS)
    # These never change: a published split is a promise.
    assert [fold_of(name, SHARES) for name in "abcdef"] == ["train", "dev", "test", "test", "dev", "test"]


def test_a_later_share_moves_no_row_of_an_earlier_fold() -> None:
    more_judge = {**SHARES, "judge": 0.5}
    for name in map(str, range(2000)):
        before, after = fold_of(name, SHARES), fold_of(name, more_judge)
        assert before == after or (before, after) == ("train", "judge")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([json.dumps(VOTE).encode(), b'{"prompt": "x"}'])))
def test_no_bytes_are_lost_or_end_the_process(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "f").write_bytes(json.dumps(VOTE).encode() + b"\n" + b"\n".join(parts))
    try:
        tally = tally_of(source(folder / "f"), folder)
    except BadFileError:
        return
    lines = (folder / "f").read_bytes().split(b"\n")
    assert tally.input == sum(bool(line.strip()) for line in lines)
    assert tally.accepted + tally.quarantined.total() == tally.input


def test_messages_that_stand_as_json_in_a_text_are_messages(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": said}] for said in ("Hello.", "Go.")]
    row = {"prompt": "Hi", "chosen": json.dumps(turns[0]), "rejected": json.dumps(turns[1])}
    torn = row | {"rejected": row["rejected"][:-2]}
    hidden = row | {"chosen": row["chosen"].replace("Hello", "Hel\\u202elo")}
    tallies, folder = take(tmp_path, [row, torn, hidden])
    assert (tallies["s0"].format, quarantine(folder)) == ("pairs_conversational", [(2, "type"), (3, "hidden_text")])
    (found,) = read_table(folder / "raw/preferences").to_pylist()
    assert {found["reply_a"], found["reply_b"]} == {"Hello.", "Go."}
