"""ingest: sources of params to raw tables, and errors that a person can act on."""

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest, prepare, validate, world
from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.hashes import content_hash
from tasks.preferences import shards
from tasks.preferences.rules import FILES, RulesOptions
from tasks.records import DATASETS, read_table

ROOT = Path(__file__).parents[2]
WORLD = {"num_demonstrations": 60, "num_preferences": 40, "num_raters": 3, "length_bias": 0.0}
HH = [
    {
        "chosen": f"\n\nHuman: Question {n}\n\nAssistant: Yes.",
        "rejected": f"\n\nHuman: Question {n}\n\nAssistant: No.",
    }
    for n in range(30)
]


FOLDS = {"judge": 0.25, "dev": 0.05, "test": 0.18, "sealed": 0.0}


def params(*sources: dict[str, Any], rate: float = 0.05, held_out: tuple[str, ...] = ()) -> ingest.Params:
    document = {"seed": 0, "world": WORLD, "folds": FOLDS, "sources": sources, "max_quarantine_rate": rate}
    document |= {"near_jaccard": 0.8, "held_out": held_out}
    return ingest.Params.model_validate(document)


def run(data: Path, *sources: dict[str, Any], rate: float = 0.05, held_out: tuple[str, ...] = ()) -> dict[str, Any]:
    with closing(FileTracker("ingest", data)) as tracker:
        return ingest.run(params(*sources, rate=rate, held_out=held_out), data, tracker)


def put(data: Path, name: str, rows: list[Any]) -> dict[str, Any]:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (data / "inputs" / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return {"kind": "file", "path": name}


def test_votes_of_the_world_name_the_rubric_as_it_is(data: Path) -> None:
    run(data, {"kind": "world"})
    before = read_table(data / "raw/preferences")
    assert set(before["rubric"].to_pylist()) == {None}
    (data / "rubric.md").write_text("new")
    run(data, {"kind": "world"})
    votes = read_table(data / "raw/preferences")
    assert set(votes["rubric"].to_pylist()) == {f"rubric@{hashlib.sha256(b'new').hexdigest()[:12]}"}
    assert votes.drop_columns("rubric") == before.drop_columns("rubric")


STEPS = {"kind": "world_steps", "num_demonstrations": 20, "num_prompts": 30, "num_solutions": 40}


def test_the_world_fills_every_dataset(data: Path) -> None:
    metrics = run(data, {"kind": "world"}, STEPS)
    rows = {name: read_table(data / "raw" / name).num_rows for name in DATASETS}
    assert metrics["rows"] == rows
    assert (rows["demonstrations"], rows["preferences"], rows["solutions"]) == (80, 40, 40)
    assert rows["safety"] > 0
    assert rows["prompts"] > 0
    assert metrics["sources"]["world"]["format"] == "simulated"


def test_noisier_raters_err_more_over_the_same_replies() -> None:
    def panel(noise: float) -> list[world.Rater]:
        return world.raters(world.WorldParams(**WORLD, noise=noise), seed=0)

    rng = random.Random(0)
    wrong = {}
    for noise in (0.25, 1.0, 4.0):
        votes = [rater.compare(1.0, 0.0, 5, 5, rng)[0] for rater in panel(noise) for _ in range(400)]
        wrong[noise] = votes.count("b") / len(votes)
    assert wrong[0.25] < 0.01 < 0.05 < wrong[1.0] < 0.2 < wrong[4.0] < 0.5
    assert [rater.tie_rate for rater in panel(4.0)] == [rater.tie_rate for rater in panel(1.0)]


def test_solutions_in_steps_are_a_source_like_others(data: Path) -> None:
    good = {"prompt": "What is 1 + 1?", "steps": ["1 + 1 = 2.", "Two."], "labels": [True, None], "correct": True}
    other = good | {"labels": [False, None]}  # says the opposite of the same steps
    rows = [good, other, good | {"steps": ["Two."]}, good | {"labels": [1, 0]}, good | {"steps": ["a", "\n"]}]
    metrics = run(data, put(data, "steps.jsonl", rows), rate=1.0)
    assert metrics["rows"]["solutions"] == 1
    assert metrics["quarantined"] == {"total": 4, "id_conflict": 1, "label_count": 1, "bad_label": 1, "empty_text": 1}
    (row,) = read_table(data / "raw/solutions").to_pylist()
    assert (row["steps"], row["labels"], row["correct"]) == (good["steps"], [True, None], True)
    with pytest.raises(ValueError, match=r"steps.jsonl: too_many_refused: 4 of 5 rows are refused .bad_label 1"):
        run(data, put(data, "steps.jsonl", rows))


def test_a_gzipped_file_of_dialogues(data: Path) -> None:
    source = put(data, "HH harmless.jsonl.gz", [*HH, {"chosen": "x", "rejected": "y"}])
    metrics = run(data, {**source, "demonstrations": "chosen"})
    assert metrics["rows"] == {
        "demonstrations": 30,
        "preferences": 30,
        "safety": 0,
        "prompts": 30,
        "solutions": 0,
        "feedback": 0,
    }
    assert metrics["quarantined"] == {"total": 1, "bad_dialogue": 1}
    assert sorted(path.name for path in (data / "raw/preferences").iterdir()) == ["hh-harmless.parquet"]
    assert read_table(data / "raw/demonstrations")["reply"].to_pylist() == ["Yes."] * 30


def test_a_bad_line_of_a_hub_dataset_is_quarantined_with_its_place(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", data / "cache")
    put(data, "train.jsonl", HH)
    (data / "hub").mkdir()
    path = (data / "inputs/train.jsonl").rename(data / "hub/train.jsonl")
    size = path.stat().st_size
    with path.open("a") as file:
        file.write('{"chosen": NaN, "rejected": "b"}\n')
    metrics = run(data, {"kind": "hub", "path": str(data / "hub"), "revision": "main"})
    assert (metrics["accepted"], metrics["quarantined"]) == (30, {"total": 1, "non_finite": 1})
    (file,) = (data / "quarantine").glob("*-hub.jsonl")
    (refused,) = map(json.loads, file.read_text().splitlines())
    assert (refused["line"], refused["byte_offset"]) == (31, size)


def test_the_same_input_gives_the_same_bytes_and_old_files_go(data: Path) -> None:
    source = put(data, "a.jsonl", HH)
    run(data, {"kind": "world"}, source)
    before = {name: content_hash(data / "raw" / name) for name in DATASETS}
    (data / "raw/preferences/left-over.parquet").write_bytes(b"of a source that is gone")
    run(data, {"kind": "world"}, source)
    assert {name: content_hash(data / "raw" / name) for name in DATASETS} == before


def test_a_fresh_shard_adds_preferences_and_touches_no_demonstration(data: Path, tmp_path: Path) -> None:
    source = put(data, "a.jsonl", HH)
    run(data, {**source, "demonstrations": "chosen"})
    before = content_hash(data / "raw/demonstrations")
    fresh = tmp_path / "fresh.jsonl"
    votes = [
        {"prompt": f"Question {n}", "reply_a": "Yes.", "reply_b": "No.", "choice": "b", "rater": "ann"}
        for n in range(25, 35)
    ]
    fresh.write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    shards.accept(fresh, data)
    metrics = run(data, {**source, "demonstrations": "chosen"})
    assert metrics["rows"] == {
        "demonstrations": 30,
        "preferences": 40,
        "safety": 0,
        "prompts": 35,
        "solutions": 0,
        "feedback": 0,
    }
    assert content_hash(data / "raw/demonstrations") == before


def test_a_shard_that_repeats_the_past_cannot_block_a_run(data: Path, tmp_path: Path) -> None:
    source = put(data, "a.jsonl", HH)
    fresh = tmp_path / "fresh.jsonl"
    fresh.write_text("".join(json.dumps(row) + "\n" for row in HH[:5]))
    shards.accept(fresh, data)
    fresh.write_text("".join(json.dumps(row) + "\n" for row in HH[:6]))
    shards.accept(fresh, data)
    assert run(data, source)["quarantined"] == {"total": 11, "exact_duplicate": 11}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "file", "path": "none.jsonl"}, r"inputs/none.jsonl is not a file; copy it to .*make run DATA="),
        ({"kind": "file", "path": "/etc/hostname"}, r"'/etc/hostname' lies outside .*; copy the file there"),
        ({"kind": "file", "path": "../shards/index.json"}, "lies outside"),
        ({"kind": "file", "path": "."}, "name a file in it"),
    ],
)
def test_a_wrong_path_is_one_clear_line(data: Path, source: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(data, source)
    assert not (data / "raw").exists()


def test_a_bad_file_leaves_what_was_there(data: Path) -> None:
    source = put(data, "a.jsonl", HH)
    run(data, source)
    before = content_hash(data / "raw/preferences")
    put(data, "a.jsonl", HH + [{"chosen": 1}] * 5)
    with pytest.raises(ValueError, match=r"5 of 35 rows are refused \(type 5\)"):
        run(data, source)
    assert content_hash(data / "raw/preferences") == before


def test_two_sources_of_one_name_are_refused(data: Path) -> None:
    one, two = put(data, "a.jsonl", HH), put(data, "A.json", HH)
    with pytest.raises(ValueError, match="two sources are called `a`"):
        run(data, one, two)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "hub", "path": "owner/name"}, "revision"),
        ({"kind": "hub", "path": "owner/name", "revision": ""}, "revision"),
        *(
            ({"kind": "hub", "path": "owner/name", "revision": name}, r"full commit hash .*dataset_info\('owner/name'")
            for name in ("main", "v1.0", "7ae5576", "refs/convert/parquet")
        ),
        ({"kind": "file", "path": "a", "format": "xml"}, "unknown; give auto or one of canonical_"),
        ({"kind": "file", "path": "a", "demonstrations": "all"}, "demonstrations"),
        ({"kind": "ftp"}, "kind"),
    ],
)
def test_impossible_sources_are_refused_with_the_params(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        params(source)


def test_a_name_of_the_hub_is_pinned_and_a_folder_is_hashed(data: Path) -> None:
    params({"kind": "hub", "path": "owner/name", "revision": "7ae557604adf67be50417f59c2c2f167def9a775"})
    params({"kind": "hub", "path": str(data), "revision": "main"})


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "infra/recipes").glob("*.yaml"))], ids=lambda path: path.stem
)
def test_the_projects_own_params_are_valid(path: Path) -> None:
    stage.read_params(ingest.Params, "ingest", path)
    stage.read_params(validate.Params, "validate", path)
    stage.read_params(prepare.Params, "prepare", path)


def test_as_a_process_a_bad_file_exits_2_with_one_line_and_a_good_one_reports(data: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    project = data / "project"
    (project / "data").mkdir(parents=True)
    for name in ("inputs", "shards"):
        (data / name).rename(project / "data" / name)
    for name in FILES:
        shutil.copy(ROOT / "data" / name, project / "data" / name)
    text = {"seed": 0, "world": WORLD, "ingest": {"sources": [{"kind": "file", "path": "a.jsonl"}]}}
    text["ingest"] |= {"max_quarantine_rate": 0.05, "near_jaccard": 0.8, "held_out": []}
    text["folds"] = FOLDS
    (project / "params.yaml").write_text(json.dumps(text))

    def process() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tasks.ingest"]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)

    missing = process()
    assert missing.returncode == stage.BAD_INPUT
    assert missing.stderr.startswith("error: ingest: ingest.sources: data/inputs/a.jsonl is not a file; copy it")
    assert missing.stderr.count("\n") == 1
    put(project / "data", "a.jsonl", HH)
    done = process()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    report = json.loads((project / "data/reports/ingest.json").read_text())
    assert report["metrics"]["accepted"] == 30
    assert set(report["outputs"]) == {*(f"raw/{name}" for name in DATASETS), "quarantine"}


def test_votes_by_an_older_rubric_are_queued_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "rubric.md").write_text("new")
    old, new = (hashlib.sha256(text).hexdigest() for text in (b"old", b"new"))
    versions = [{"sha256": sha256} for sha256 in (old, new)]
    (data / "rubric_versions.json").write_text(json.dumps({"versions": versions}))
    rows = [
        {"prompt": f"Name river {n}.", "reply_a": f"Ask a{n}@b.org.", "reply_b": "No.", "choice": "a", "rater": rater}
        | {"rubric": f"rubric@{(old, new)[n % 2][:12]}", "domain": "rivers", "seconds": 9.0}
        for n in range(8)
        for rater in ("ann", "bob")
    ]  # fmt: skip
    rows[0] |= {"cluster": "own"}
    rows[8]["reply_a"] = (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"  # of no use to anybody
    )
    source = put(data, "votes.jsonl", rows)
    asked = params(source, rate=0.1)
    asked = asked.model_copy(update={"rules": RulesOptions.model_validate({"rubric": {"old_votes": "requeue"}})})

    def taken() -> tuple[dict[str, Any], bytes]:
        with closing(FileTracker("ingest", data)) as tracker:
            metrics = ingest.run(asked, data, tracker)
        return metrics, (data / "quarantine/requeue/pairs.jsonl").read_bytes()

    metrics, queue = taken()
    assert metrics["quarantined"] == {"total": 8, "rubric_changed": 7, "secret": 1}
    assert (metrics["accepted"], metrics["requeued"]) == (8, 4)
    assert "4 pairs are to be voted on again" in capsys.readouterr().err
    pairs = [json.loads(line) for line in queue.splitlines()]
    assert [pair["prompt"][0]["content"] for pair in pairs] == [f"Name river {n}." for n in (0, 2, 4, 6)]
    assert {pair["reply_a"] for pair in pairs} == {"Ask <email-1>."}
    assert [pair.pop("cluster", None) for pair in pairs] == ["own", None, None, None]
    what = {"domain": "rivers", "source": "votes", "rubric": f"rubric@{new[:12]}", "choice": None, "rater": None}
    assert all(
        pair.keys() == {"prompt", "reply_a", "reply_b", *what} and pair.items() >= what.items() for pair in pairs
    )
    assert taken() == (metrics, queue)  # from what is kept
    shutil.rmtree(data / "runs")
    assert taken() == (metrics, queue)
    voted = put(data, "voted.jsonl", [{**pair, "choice": "b", "rater": "eve"} for pair in pairs])
    assert run(data, voted, rate=0.0)["rows"]["preferences"] == 4
    assert set(read_table(data / "raw/preferences")["rubric"].to_pylist()) == {f"rubric@{new[:12]}"}
    assert not (data / "quarantine/requeue").exists()
