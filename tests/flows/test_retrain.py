"""The main job from outside: what it runs, what it says, what it leaves in MLflow and in git."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flows.retrain
from tasks.adapters import stage

Edit = Callable[..., None]
Executed = Callable[[], list[str]]
Retrain = Callable[..., Any]  # see conftest.py
Store = Callable[[Path], Any]
ALL = {"ingest", "prepare", "sft", "reward@0", "judge", "align", "evaluate", "gate", "report"}


def test_the_loop_registers_once_and_a_second_run_does_nothing(
    toy_with_model: Path, retrain: Retrain, edit: Edit, store: Store, executed: Executed
) -> None:
    Path("staged.txt").write_text("mine")
    git("add", "staged.txt")
    before = standing()
    first = retrain()
    assert first.returncode == 0, first.stderr
    assert standing() == before
    assert set(executed()) == ALL
    assert "policy version 1, challenger (pass)" in first.stdout
    assert "differs from the last commit: staged.txt, dvc.lock" in first.stdout
    report = json.loads(Path("data/reports/summary.json").read_text())
    assert {row["outcome"] for row in report["stages"].values()} == {"ran"}
    assert report["registration"]["version"] == "1"
    assert report["win_rate"]["gold"] == {"value": 0.7, "n": 50, "low": 0.6, "high": pytest.approx(0.8)}

    seen = store(toy_with_model)
    (parent,) = seen.flow_runs()
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in seen.stage_runs()} == {parent.info.run_id}
    assert {run.data.tags["dvc.stage"] for run in seen.stage_runs()} == ALL
    assert {each.dataset.name for each in parent.inputs.dataset_inputs} == {"demonstrations", "preferences"}
    (align,) = seen.runs(dvc__stage="align")
    assert seen.steps(align, "loss") == [1, 2, 3]
    assert len(align.data.tags["dvc.stage_hash"]) == 64
    (evaluate,) = seen.runs(dvc__stage="evaluate")
    assert evaluate.data.metrics["win_rate.gold.low"] == pytest.approx(0.6)
    (version,) = seen.versions()
    assert version.tags["gate.verdict"] == "pass"
    assert "**Gate: pass**" in version.description
    assert seen.alias("challenger") == "1"
    check_pinned_commit(version)

    started = time.monotonic()
    again = retrain()
    assert again.returncode == 0
    assert "nothing changed" in again.stdout
    assert time.monotonic() - started < 10
    assert executed() == []
    assert len(seen.runs()) == 10
    assert len(seen.versions()) == 1

    edit("align", steps=4)
    third = retrain()
    assert executed() == ["align", "evaluate"]  # the evaluation came out the same: gate and report are as they were
    assert "gate: its inputs turned out as they were" in third.stdout
    assert "policy version 2" in third.stdout
    newest = max(seen.flow_runs(), key=lambda run: run.info.start_time)
    assert newest.data.tags["run.sft"] == seen.runs(dvc__stage="sft")[0].info.run_id

    Path("params.yaml").write_text(subprocess.run(
        ["git", "show", "HEAD:params.yaml"], capture_output=True, text=True, check=True
    ).stdout)  # fmt: skip
    back = retrain()
    assert executed() == []
    assert "outputs restored from the run cache" in back.stdout
    assert "policy version 1, challenger (pass, known before)" in back.stdout
    assert len(seen.versions()) == 2


def standing() -> tuple[list[str], str, str]:
    """The working tree but for dvc.lock, the commit, the branch."""
    status = [line for line in git("status", "--porcelain").splitlines() if "dvc.lock" not in line]
    return status, git("rev-parse", "HEAD"), git("branch", "--show-current")


def check_pinned_commit(version: Any) -> None:
    """It holds the run: its own tree, with the run's dvc.lock and without what the user had staged."""
    commit = version.tags["git.commit"]
    assert git("rev-parse", f"retrain/{version.tags['policy.md5'][:12]}") == commit
    assert git("show", f"{commit}:dvc.lock") == Path("dvc.lock").read_text().rstrip("\n")
    assert git("rev-parse", f"{commit}^") == git("rev-parse", "HEAD")
    assert "staged.txt" not in git("ls-tree", "--name-only", commit)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--recipe", "bogus"], 2, "--recipe bogus: no such recipe; infra/recipes has none"),
        (["--data", "x.jsonl"], 2, "--data x.jsonl: needs --recipe"),
        (["--from-stage", "bogus"], 2, "--from-stage bogus: no such stage"),
        (["--fresh", "absent.jsonl"], 2, "absent.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_a_status(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    text: str,
    executed: Executed,
) -> None:
    monkeypatch.setattr(flows.retrain.signal, "signal", lambda *_: None)  # the tests' own process keeps its handlers
    assert flows.retrain.main(arguments) == status
    errors = capsys.readouterr().err
    assert text in errors
    assert "Traceback" not in errors
    assert executed() == []


def test_a_fresh_shard_is_taken_in_once_and_its_plan_is_the_flows(short: Path, retrain: Retrain) -> None:
    """The command takes it in before it starts Prefect; the flow goes on from there."""
    vote = {"prompt": "Hi", "reply_a": "x", "reply_b": "y", "choice": "a", "rater": "ann"}
    Path("fresh.jsonl").write_text(json.dumps(vote) + "\n")
    done = retrain("--fresh", "fresh.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fresh.jsonl: 1 rows for preferences\n") == 1
    assert "had them already" not in done.stdout


def test_a_held_workspace_is_busy(toy: Path, retrain: Retrain) -> None:
    with stage.lock(toy / "data/.lock/workspace"):
        done = retrain()
    assert done.returncode == 75
    assert f"held by pid {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


def test_failures_keep_their_status_and_stop_what_follows(
    short: Path, retrain: Retrain, edit: Edit, store: Store, executed: Executed
) -> None:
    edit("prepare", fail=4)
    done = retrain()
    assert done.returncode == 4
    assert done.stderr.strip() == "error: prepare: prepare was told to fail"
    assert executed() == ["ingest", "prepare"]
    (failed,) = store(short).runs(dvc__stage="prepare")
    assert failed.info.status == "FAILED"
    assert store(short).flow_runs()[0].info.status == "FAILED"


def test_without_a_server_prefect_lives_in_the_project(
    short: Path, prefect_database: Callable[[Path], None], executed: Executed
) -> None:
    """No API address: a server for the length of the command, its home `.prefect/`; no profile of the user."""
    prefect_database(short)
    profiles = Path(os.environ["HOME"]) / ".prefect/profiles.toml"
    profiles.parent.mkdir(exist_ok=True)
    profiles.write_text('active = "cloud"\n[profiles.cloud]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain", "--from-stage", "ingest"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(executed()) == {"ingest", "prepare", "sft"}
    assert (short / ".prefect/prefect.db").exists()
    assert "PREFECT" not in done.stderr


def start(server: str) -> "subprocess.Popen[str]":
    # What a shell starts in the background ignores it, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as under `nohup`; it ends stopped processes whose parent is killed
    return subprocess.Popen(
        [sys.executable, "-m", "flows.retrain"],
        env={**os.environ, "PREFECT_API_URL": server},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def telemetry(name: str) -> list[str]:
    path = Path("data/runs") / name / "telemetry.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def stages_alive(root: Path) -> list[int]:
    from tasks.adapters import recovery

    return [process.pid for process in recovery.marked(root)]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_interrupted_then_run_again(
    short: Path, server: str, retrain: Retrain, edit: Edit, store: Store, signum: int, status: int
) -> None:
    """The stage dies with the run (or, after kill -9, when the next run begins); the next run completes, and the
    resumed stage goes on in its MLflow run without repeating a step."""
    edit("sft", steps=40, sleep=0.5)
    process = start(server)
    wait_until(lambda: len(telemetry("sft")) >= 8)
    if signum == signal.SIGKILL:
        for pid in stages_alive(short):  # they would outlive the run, and go on until the next one begins
            os.kill(pid, signal.SIGSTOP)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    if signum != signal.SIGKILL:
        wait_until(lambda: not stages_alive(short), 15)
        assert "Traceback" not in errors
    kept = telemetry("sft")
    # The second attempt has the same inputs and repeats the last steps, as after a checkpoint.
    Path("data/resume").mkdir(parents=True)
    Path("data/resume/sft").write_text(json.dumps({"from": len(kept) - 4, "to": len(kept) + 2}))
    done = retrain()
    assert done.returncode == 0, done.stderr
    assert not stages_alive(short)
    seen = store(short)
    (run,) = seen.runs(dvc__stage="sft")
    assert run.info.status == "FINISHED"
    steps = seen.steps(run, "loss")
    assert steps == sorted(set(steps))
    assert steps[-1] == len(kept) + 2
    assert len(seen.flow_runs()) == 2


def test_a_held_lock_is_waited_for_and_leaves_no_trace(
    short: Path, retrain: Retrain, store: Store, executed: Executed
) -> None:
    Path("data/busy").mkdir(parents=True)
    Path("data/busy/prepare").touch()
    done = retrain()
    assert done.returncode == 0, done.stderr
    assert executed() == ["ingest", "prepare", "prepare", "sft"]
    assert [run.info.status for run in store(short).flow_runs()] == ["FINISHED"]


def test_a_tracking_server_that_is_away_holds_nothing_up(
    toy_with_model: Path, retrain: Retrain, store: Store, executed: Executed
) -> None:
    done = retrain(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert set(executed()) == ALL
    assert "not registered: tracking store http://127.0.0.1:9" in done.stdout
    done = retrain()
    assert done.returncode == 0, done.stderr
    assert executed() == []
    seen = store(toy_with_model)
    assert {run.data.tags["dvc.stage"] for run in seen.stage_runs()} == ALL
    (align,) = seen.runs(dvc__stage="align")
    assert seen.steps(align, "loss") == [1, 2, 3]
    assert len(seen.versions()) == 1
    assert not list(Path("data/journal").glob("*"))


def test_prefect_shows_states_logs_and_artifacts(short: Path, server: str, retrain: Retrain, edit: Edit) -> None:
    assert retrain().returncode == 0
    edit("ingest", steps=9)
    assert retrain().returncode == 0
    Path("params.yaml").write_text(git("show", "HEAD:params.yaml"))
    assert retrain().returncode == 0
    names = states(server)
    assert names["ingest"][-1] == "Cached"
    assert names["prepare"][-1] == "Skipped"
    assert names["sft"][0] == "Completed"
    assert "Running stage 'sft':" in logs(server)


def test_cancelled_in_the_ui(short: Path, server: str, edit: Edit) -> None:
    edit("sft", steps=100, sleep=0.5)
    process = start(server)
    wait_until(lambda: len(telemetry("sft")) >= 2)
    cancel_running(server)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not stages_alive(short)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.rstrip("\n")


def post(server: str, path: str, body: dict[str, Any]) -> Any:
    import urllib.request

    request = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or "null")


def last_flow_runs(server: str, limit: int = 4) -> list[str]:
    found = post(server, "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": limit})
    return [run["id"] for run in found]


def states(server: str) -> dict[str, list[str]]:
    """Task name -> names of its final states over the last flow runs, oldest first."""
    body = {"flow_runs": {"id": {"any_": last_flow_runs(server)}}, "sort": "END_TIME_DESC", "limit": 200}
    found = post(server, "/task_runs/filter", body)
    names: dict[str, list[str]] = {}
    for run in reversed(found):
        names.setdefault(run["name"], []).append(run["state_name"])
    return names


def logs(server: str) -> list[str]:
    def read() -> list[str]:
        body = {"logs": {"flow_run_id": {"any_": last_flow_runs(server)}}, "limit": 200}
        return [line["message"] for line in post(server, "/logs/filter", body)]

    wait_until(lambda: "Running stage 'sft':" in read(), 15)
    return read()


def cancel_running(server: str) -> None:
    """Cancel the newest run; an older one that was killed still counts as running."""
    running_ones = {"state": {"type": {"any_": ["RUNNING"]}}}
    body = {"flow_runs": running_ones, "sort": "START_TIME_DESC", "limit": 1}
    (running,) = post(server, "/flow_runs/filter", body)
    post(server, f"/flow_runs/{running['id']}/set_state", {"state": {"type": "CANCELLING"}, "force": True})
