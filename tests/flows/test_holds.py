"""Holds at work: a held shard in the inbox, the last registered version, the command that releases."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flows import holds, retrain, summary, versions
from flows import inbox as take_inbox
from tasks.adapters import stage
from tasks.adapters.execution import StageError
from tasks.adapters.workspace import Workspace
from tasks.preferences import bounds, drift, shards
from tasks.preferences.screen import HeldError
from tests.tasks.preferences.test_bounds import metrics

VOTE = {"prompt": "Hi", "reply_a": "Hello.", "reply_b": "Go.", "choice": "a", "rater": "ann"}


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / "data").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("validate:\n  suites: s\n  holds: {max_drop: 0.2}\n")
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path, tmp_path)


def report(space: Workspace, rows: int, test_share: float = 0.2, **options: Any) -> None:
    folder = space.data / "reports"
    folder.mkdir(exist_ok=True)
    validate = {"metrics": metrics(rows, **options), "inputs": {"raw/preferences": f"{rows}", "raw/prompts": "p"}}
    (folder / "validate.json").write_text(json.dumps(validate))
    (folder / "prepare.json").write_text(json.dumps({"params": {"folds": {"test": test_share, "sealed": 0.0}}}))


def test_the_last_registered_version_is_the_reference(space: Workspace) -> None:
    report(space, 100)
    versions.check(space)  # nothing was registered yet
    versions.remember(space)
    report(space, 90)
    versions.check(space)
    report(space, 70)
    with pytest.raises(
        StageError, match=r"volume_drop: 70 rows, the last registered version had 100 \(0.3, bound 0.2\)"
    ):
        versions.check(space)
    release = {"hold": "volume_drop", "dataset": "preferences", "sha256": "70", "by": "ann", "reason": "r", "at": "t"}
    (space.data / "releases.json").write_text(json.dumps({"releases": [release]}))
    versions.check(space)
    report(space, 100, test_share=0.3)
    with pytest.raises(StageError, match=r"eval_split: folds.test was 0.2") as caught:
        versions.check(space)
    assert caught.value.status == stage.HELD


def card(space: Workspace, domains: dict[str, int], auc: float = 0.5) -> None:
    rows = sum(domains.values())
    found = {"rows": rows, "source": {"votes": rows}, "domain": domains, "lengths": {"0": rows}}
    metrics = {"datasets": {"preferences": found, "safety": {"rows": 0}}, "holds": {"preferences": {"length_auc": auc}}}
    (space.data / "reports").mkdir(exist_ok=True)
    (space.data / "reports/card.json").write_text(json.dumps({"metrics": metrics}))


def test_a_replaced_file_is_seen_in_the_drift_since_the_last_registered_version(space: Workspace) -> None:
    report(space, 2312)
    card(space, {"a": 2000, "b": 312})
    assert versions.moved(space) == []  # nothing was registered yet
    versions.remember(space)
    (same,) = versions.moved(space)
    assert (same["rows"], same["sources"], same["bits"], drift.sentence(same)) == (2312, {}, {}, None)
    card(space, {"c": 1200}, auc=0.62)
    (moved,) = versions.moved(space)
    assert moved == {
        "dataset": "preferences",
        "rows_before": 2312,
        "rows": 1200,
        "sources": {"votes": [2312, 1200]},
        "bits": {"domain": 1.0},
        "length_auc": 0.12,
    }
    assert json.loads((space.data / versions.DRIFT).read_text()) == {"since_the_last_registered_version": [moved]}
    written = summary.write(space, {}, None, 0.0, [moved])
    said = dict(summary.figures(written))["preferences since the last version"]
    assert said == "1,200 rows, were 2,312; votes 2,312 -> 1,200; apart in bits: domain 1.0; length AUC +0.1200"


def hold_everything(path: Path, data: Path, **given: Any) -> Any:
    judged = {**given, "judge": lambda dataset, folder: (["shift_hold: all of it (1, bound 0)"], [], {})}
    return shards_accept(path, data, **judged)


shards_accept = shards.accept


def test_a_held_shard_ends_the_command_with_its_own_status_and_is_released_by_it(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shards, "accept", hold_everything)
    Path("fresh.jsonl").write_text(json.dumps(VOTE) + "\n")
    assert retrain.main(["--fresh", "fresh.jsonl"]) == stage.HELD
    said = capsys.readouterr().err
    assert said.startswith("error: fresh.jsonl: held: shift_hold: all of it (1, bound 0); nothing of it was taken in")
    assert said.count("\n") == 1
    assert holds.main([]) == 0
    listed = capsys.readouterr().out
    assert "1 rows for preferences\n    shift_hold: all of it" in listed
    name = listed.split()[0]
    assert holds.main(["release-shard", "--shard", "zz", "--by", "ann", "--reason", "r"]) == stage.BAD_INPUT
    assert holds.main(["release-shard", "--shard", name, "--by", "ann", "--reason", "r"]) == 0
    assert shards.accepted(space.data)[0][1]["released"]["by"] == "ann"
    assert (
        holds.main(["release-hold", "--hold", "h", "--dataset", "x", "--by", "a", "--reason", "r"]) == stage.BAD_INPUT
    )
    assert bounds.releases(space.data) == []


def test_a_shard_says_how_many_of_its_rows_are_refused_and_why(
    space: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**VOTE, "prompt": f"Question {n}"} for n in range(40)] + [{**VOTE, "choice": "c"}, VOTE, VOTE]
    Path("fresh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    retrain.take(space, Path("fresh.jsonl"))
    (said, *_) = capsys.readouterr().out.splitlines()
    assert said == (
        "fresh.jsonl: 41 rows for preferences; 2 refused (bad_label 1, exact_duplicate 1), see data/quarantine"
    )


def test_a_held_shard_of_the_inbox_moves_aside_and_blocks_nothing(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import serve

    inbox = Path("data/inbox")
    inbox.mkdir()
    (inbox / "votes.jsonl").write_text(json.dumps(VOTE) + "\n")

    def held(*_: Any) -> None:
        raise HeldError("votes.jsonl: held: why")

    monkeypatch.setattr(serve.job, "take", held)
    assert serve.taken(inbox / "votes.jsonl") is False
    assert (inbox / "held/votes.reason.txt").read_text() == "votes.jsonl: held: why\n"
    assert serve.waiting() == []


@pytest.fixture
def inbox(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inbox of a project whose main job does nothing."""
    folder = Path("data/inbox")
    folder.mkdir()
    monkeypatch.setattr(retrain, "main", lambda argv: 0)
    return folder


def rows(first: int) -> str:
    return "".join(json.dumps({**VOTE, "prompt": f"Question {n}"}) + "\n" for n in range(first, first + 3))


def test_files_folders_and_archives_of_the_inbox_are_taken_in_once(
    inbox: Path, space: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (inbox / "monday.jsonl").write_text(rows(0))
    (inbox / "week.v2").mkdir()
    (inbox / "week.v2/a.jsonl").write_text(rows(10))
    (inbox / "week.v2/b.jsonl").write_text(rows(20))
    with zipfile.ZipFile(inbox / "month.zip", "w") as archive:
        archive.writestr("votes.jsonl", rows(30))
    (inbox / "bad.d").mkdir()
    (inbox / "bad.d/notes.txt").write_text("no data")
    assert take_inbox.main([]) == stage.BAD_INPUT  # of one of them
    assert sorted(entry["rows"] for _, entry in shards.accepted(space.data)) == [3, 3, 6]
    assert sorted(path.name for path in (inbox / "done").iterdir()) == ["monday.jsonl", "month.zip", "week.v2"]
    assert "empty_file: holds no data file" in (inbox / "refused/bad.d.reason.txt").read_text()
    assert "refused: data/inbox/bad.d: empty_file" in capsys.readouterr().err
    assert take_inbox.main([]) == 0
    assert capsys.readouterr().out == "no new shard in data/inbox; nothing to do\n"
    (inbox / "week.v2").mkdir()  # the same name again
    (inbox / "week.v2/a.jsonl").write_text(rows(40))
    assert take_inbox.main([]) == 0
    assert (inbox / "done/week.v2-2/a.jsonl").is_file()


def test_what_is_not_complete_waits_and_is_named(inbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inbox / "empty").mkdir()
    (inbox / "week").mkdir()
    (inbox / "week/a.jsonl").write_text(rows(0))
    (inbox / "week/b.jsonl.part").write_text(rows(10)[:20])
    (inbox / "votes.jsonl.part").write_text("{")
    (inbox / "link").symlink_to("nowhere")
    assert take_inbox.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "data/inbox/empty: left in the inbox: an empty folder; put its files there",
        "data/inbox/link: left in the inbox: neither a file nor a folder; remove it",
        "data/inbox/votes.jsonl.part: left in the inbox: its name ends in .part; rename it when it is complete",
        "data/inbox/week: left in the inbox: b.jsonl.part in it is not complete; rename it when it is",
        "no new shard in data/inbox; nothing to do",
    ]
    (inbox / "week/b.jsonl.part").rename(inbox / "week/b.jsonl")
    (inbox / "week/b.jsonl").write_text(rows(10))
    assert take_inbox.main([]) == 0
    assert (inbox / "done/week/b.jsonl").is_file()


def test_a_run_that_fails_leaves_the_shards_in_the_inbox(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inbox / "monday.jsonl").write_text(rows(0))
    monkeypatch.setattr(retrain, "main", lambda argv: 1)
    assert take_inbox.main([]) == 1
    assert (inbox / "monday.jsonl").is_file()


def test_a_release_in_a_recipes_workspace_outlives_its_next_run(space: Workspace) -> None:
    """Files that git tracks are the project's in a workspace, too: with every run they are copied over."""
    root = space.root / "data/workspaces/small"
    (root / "data/raw/preferences").mkdir(parents=True)
    said = holds.release_hold(Workspace(root, space.root), "length_auc", "preferences", "ann", "short answers win")
    assert f"in {space.root / 'data/releases.json'}; commit it" in said
    assert bounds.releases(space.data) == bounds.releases(root / "data") != []
