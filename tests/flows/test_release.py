"""Promotion by alias: released, refused, rolled back; on a toy result registered without Prefect."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import release
from tasks import register
from tasks.adapters import champion, stage, tracking, workspace
from tasks.adapters.journal import Journal
from tasks.files import write_json

Edit = Callable[..., None]
Store = Callable[[Path], Any]


def make_version(root: Path) -> str:
    """Run the toy pipeline with plain DVC and register what it made; the version."""
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True, capture_output=True)
    space = workspace.open_workspace(root)
    journal = Journal.begin(root, tracking.Store.of(root), "test", {"git.sha": "x"})
    made = register.register(space, journal)
    journal.end("FINISHED")
    assert journal.ship(), journal.problem
    journal.clear()
    assert made is not None
    assert made.version is not None, made.reason
    return made.version


def promote(seen: Any, version: str) -> None:
    seen.client.set_registered_model_alias("policy", "champion", version)


@pytest.fixture
def generates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the process that generates; one test lets it run."""
    monkeypatch.setattr(release, "smoke_test", lambda folder: None)


def manifest() -> dict[str, Any]:
    return champion.manifest(Path("data"))


def test_released_generating_and_loadable_by_alias(toy_with_model: Path, store: Store) -> None:
    version = make_version(toy_with_model)
    seen = store(toy_with_model)
    assert release.release() == "policy: no version has the alias champion"
    promote(seen, version)
    assert "policy version 1 released" in release.release()
    assert manifest()["version"] == "1"
    assert manifest()["because"] == "pass"
    assert Path("data/champion/README.md").is_file()
    assert json.loads(Path("data/champion/passport.json").read_text())["policy"]["md5"] == manifest()["policy_md5"]
    assert "released" in seen.versions()[0].tags
    assert "nothing to do" in release.release()
    load = (
        "import mlflow, sys, transformers\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "loaded = mlflow.transformers.load_model('models:/policy@champion')\n"
        "folder = mlflow.artifacts.download_artifacts('models:/policy@champion')\n"
        "plain = transformers.pipeline('text-generation', model=folder)\n"
        "options = dict(max_new_tokens=3, do_sample=False)\n"
        "answers = [each('Hello a', **options)[0]['generated_text'] for each in (loaded, plain)]\n"
        "chat = plain([{'role': 'user', 'content': 'Hello'}], **options)[0]['generated_text']\n"
        "assert chat[-1]['role'] == 'assistant', chat\n"
        "assert all(answers), answers\n"
        "scores = mlflow.pyfunc.load_model('models:/policy@champion').predict('Hello')\n"
        "assert scores, scores\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", load, tracking.Store.of(toy_with_model).uri],
        cwd=toy_with_model.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("generates")
def test_rollback_is_the_same_path_and_the_record_keeps_the_history(
    toy_with_model: Path, store: Store, edit: Edit
) -> None:
    seen = store(toy_with_model)
    promote(seen, make_version(toy_with_model))
    release.release()
    edit("align", steps=4)
    second = make_version(toy_with_model)
    assert second == "2"
    assert seen.versions()[1].tags["gate.baseline"] == "champion"
    promote(seen, second)
    release.release()
    assert manifest()["version"] == "2"
    assert seen.alias("previous") == "1"
    promote(seen, "1")
    release.release()
    assert manifest()["version"] == "1"
    assert manifest()["because"].startswith("released before")
    assert [entry["version"] for entry in manifest()["history"]] == ["1", "2", "1"]
    assert seen.alias("previous") == "2"


@pytest.mark.usefixtures("generates")
def test_the_verdict_is_recomputed_and_edited_tags_do_not_help(toy_with_model: Path, store: Store, edit: Edit) -> None:
    seen = store(toy_with_model)
    edit("evaluate", win=0.52)  # its interval, 0.42 to 0.62, holds one half
    version = make_version(toy_with_model)
    seen.client.set_model_version_tag("policy", version, "gate.verdict", "pass")
    promote(seen, version)
    with pytest.raises(release.RefusedError, match="its verdict is 'not enough evidence'"):
        release.release()
    assert seen.alias("champion") is None  # a refused first champion loses the alias
    assert manifest() == {}
    assert "not enough evidence" in seen.versions()[0].tags["release.refused"]
    seen.client.set_model_version_tag("policy", version, release.OVERRIDE, "the owner: demo only")
    promote(seen, version)
    release.release()
    assert manifest()["because"] == "override: the owner: demo only"


@pytest.mark.usefixtures("generates")
def test_a_refused_version_gives_the_alias_back(toy_with_model: Path, store: Store, edit: Edit) -> None:
    seen = store(toy_with_model)
    promote(seen, make_version(toy_with_model))
    release.release()
    edit("align", steps=5)
    edit("evaluate", win=0.2)
    promote(seen, make_version(toy_with_model))
    with pytest.raises(release.RefusedError, match="'fail'"):
        release.release()
    assert seen.alias("champion") == "1"
    assert manifest()["version"] == "1"


@pytest.mark.usefixtures("generates")
def test_a_verdict_against_another_champion_does_not_count(toy_with_model: Path, store: Store, edit: Edit) -> None:
    seen = store(toy_with_model)
    first = make_version(toy_with_model)
    edit("align", steps=4)
    second = make_version(toy_with_model)  # judged against SFT
    promote(seen, first)
    release.release()
    promote(seen, second)
    with pytest.raises(release.RefusedError, match="never judged against the present champion"):
        release.release()
    before = len(seen.versions())
    assert make_version(toy_with_model) == second  # the same policy, judged again: no second version
    assert len(seen.versions()) == before
    assert len([key for key in seen.versions()[1].tags if key.startswith("verdict.")]) == 2
    promote(seen, second)
    release.release()
    assert manifest()["version"] == second


def test_a_version_whose_files_were_changed_is_refused(toy_with_model: Path, store: Store) -> None:
    seen = store(toy_with_model)
    version = make_version(toy_with_model)
    folder = Path(seen.client.get_model_version_download_uri("policy", version).removeprefix("file://"))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    promote(seen, version)
    with pytest.raises(release.RefusedError, match="not the ones that its passport describes"):
        release.release()
    assert seen.alias("champion") is None


def test_a_model_that_does_not_generate_is_refused(toy_with_model: Path, store: Store) -> None:
    (toy_with_model / "tiny/tokenizer.json").write_text("{}")
    seen = store(toy_with_model)
    promote(seen, make_version(toy_with_model))
    with pytest.raises(release.RefusedError, match="it does not generate"):
        release.release()
    assert not Path("data/.champion-next").exists()


def test_a_crash_between_the_two_renames_is_mended(toy: Path) -> None:
    data = Path("data")
    shutil.copytree(data / "champion", data / ".champion-next")
    write_json(data / ".champion-next/manifest.json", {"version": "2"})
    (data / "champion").rename(data / ".champion-old")
    with workspace.open_workspace(Path()).held():
        assert manifest() == {"version": "2"}
        assert not (data / ".champion-old").exists()


def test_exit_statuses(toy: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store(toy)
    assert release.main(["--once"]) == 0
    assert release.main(["--once", "--recipe", "bogus"]) == 2
    with stage.lock(toy / "data/.lock/workspace"):
        assert release.main(["--once"]) == 75
