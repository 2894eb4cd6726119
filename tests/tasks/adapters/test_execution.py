"""A stage as a process: its outcomes, its end and its environment, on the toy pipeline."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters import execution, graph, stage

Edit = Callable[..., None]
Executed = Callable[[], list[str]]


def repro() -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True, capture_output=True)


def step(root: Path, name: str) -> graph.Step:
    return next(each for each in graph.plan(root) if each.name == name)


def run(root: Path, name: str, say: Callable[[str], None] = lambda line: None) -> execution.Result:
    return execution.run(root, step(root, name), execution.Running(), say)


def test_a_deleted_output_is_planned_and_comes_back_from_the_run_cache(toy: Path, executed: Executed) -> None:
    repro()
    executed()
    (toy / "data/report.html").unlink()
    assert [step.name for step in graph.plan(toy) if step.changed] == ["report"]
    assert run(toy, "report").outcome in ("cached", "unchanged")
    assert (toy / "data/report.html").exists()
    assert executed() == []


def test_outcomes_ran_cached_unchanged(toy: Path, edit: Edit) -> None:
    repro()
    edit("ingest", steps=4)  # other parameters, the same rows
    assert run(toy, "ingest").outcome == "ran"
    assert run(toy, "prepare").outcome == "unchanged"
    edit("ingest", steps=5)
    assert run(toy, "ingest").outcome == "ran"
    edit("ingest", steps=4)
    assert run(toy, "ingest").outcome == "cached"


def test_a_failed_stage_says_its_own_status_and_reason(toy: Path, edit: Edit) -> None:
    edit("ingest", fail=4)
    with pytest.raises(execution.StageError, match="ingest was told to fail") as caught:
        run(toy, "ingest")
    assert caught.value.status == 4
    edit("ingest", fail=stage.BUSY)
    with pytest.raises(execution.TransientError):
        run(toy, "ingest")


def test_a_crash_without_a_word_is_status_1(toy: Path) -> None:
    (toy / "stages.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(execution.StageError, match="failed to reproduce 'ingest'") as caught:
        run(toy, "ingest")
    assert caught.value.status == 1


def test_lines_reach_the_listener(toy: Path) -> None:
    lines: list[str] = []
    run(toy, "ingest", lines.append)
    assert "Running stage 'ingest':" in lines


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


SLEEPER = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_deadline_ends_the_whole_group(toy: Path) -> None:
    (toy / "stages.py").write_text(SLEEPER)
    (toy / "dvc.yaml").write_text((toy / "dvc.yaml").read_text().replace("meta: {deadline: 60}", "meta: {deadline: 3}"))
    with pytest.raises(execution.StageError, match="longer than its deadline of 3 s"):
        run(toy, "ingest")
    assert not alive(int((toy / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_stop_ends_the_stage_from_another_thread(toy: Path) -> None:
    (toy / "stages.py").write_text(SLEEPER)
    running = execution.Running()
    caught: list[BaseException] = []

    def body() -> None:
        try:
            execution.run(toy, step(toy, "ingest"), running)
        except execution.StageError as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    pid = int(wait_for(toy / "pid"))
    running.stop()
    thread.join(20)
    assert caught
    assert not alive(pid)
    with pytest.raises(execution.StageError, match="stopped"):
        execution.run(toy, step(toy, "ingest"), running)


def test_a_second_signal_does_not_stop_the_ending(tmp_path: Path) -> None:
    """The stage takes a second to end; SIGTERM and Ctrl-C come meanwhile."""
    running = execution.Running()
    stubborn = ["sh", "-c", "trap 'sleep 1; exit' TERM; echo ready; while :; do sleep 0.05; done"]
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    signals = [threading.Timer(seconds, os.kill, (os.getpid(), signum)) for seconds, signum in ((0.3, 15), (0.5, 2))]
    try:
        (tmp_path / "params.yaml").write_text("seed: 1\n")
        with running.started(graph.Step("sft", (), True, False, True, None), tmp_path, stubborn) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for each in signals:
                each.start()
            running.stop()
            assert process.poll() is not None
        assert all(not each.is_alive() for each in signals)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_the_environment_is_quiet_offline_and_shares_the_cores(toy: Path, edit: Edit, monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    env = execution.environment(toy, step(toy, "align"))
    assert env["PLUMBLINE_THREADS"] == "8"
    assert env["DO_NOT_TRACK"] == "true"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert execution.environment(toy, step(toy, "ingest"))["PLUMBLINE_THREADS"] == "4"
    edit("model", base="org/model")
    assert execution.uses_hub(toy)
    edit("model", base="data")  # a folder of the project
    assert not execution.uses_hub(toy)
    edit("ingest", sources=[{"kind": "hub", "name": "org/data"}])
    assert execution.uses_hub(toy)
