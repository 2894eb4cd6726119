"""The planner and the stage process, on the toy pipeline."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters import pipeline, stage

Edit = Callable[..., None]
Executed = Callable[[], list[str]]


def changed(root: Path, **options: object) -> list[str]:
    return [step.name for step in pipeline.plan(root, **options) if step.changed]  # type: ignore[arg-type]


def repro() -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True, capture_output=True)


def step(root: Path, name: str) -> pipeline.Step:
    return next(each for each in pipeline.plan(root) if each.name == name)


def run(root: Path, name: str, say: Callable[[str], None] = lambda line: None) -> pipeline.Result:
    return pipeline.run(root, step(root, name), pipeline.Running(), say)


def test_the_plan_is_the_dvc_graph_in_order(toy: Path) -> None:
    steps = pipeline.plan(toy)
    order = [each.name for each in steps]
    assert set(order) == {
        "ingest", "prepare", "sft", "reward@0", "judge", "align", "evaluate", "gate", "report",
    }  # fmt: skip
    for each in steps:
        assert all(order.index(up) < order.index(each.name) for up in each.upstream)
    assert step(toy, "align").upstream == ("reward@0", "sft")
    assert step(toy, "align").training
    assert step(toy, "align").deadline == 60
    assert not step(toy, "ingest").training


def test_only_what_changed_and_what_follows_is_planned(toy: Path, edit: Edit) -> None:
    assert len(changed(toy)) == 9
    repro()
    assert changed(toy) == []
    edit("align", steps=4)
    assert changed(toy) == ["align", "evaluate", "gate", "report"]


def test_a_deleted_output_is_planned_and_comes_back_from_the_run_cache(toy: Path, executed: Executed) -> None:
    repro()
    executed()
    (toy / "data/report.html").unlink()
    assert changed(toy) == ["report"]
    assert run(toy, "report").outcome in ("cached", "unchanged")
    assert (toy / "data/report.html").exists()
    assert executed() == []


def test_from_stage_and_force(toy: Path) -> None:
    repro()
    steps = {each.name: each for each in pipeline.plan(toy, from_stage="align")}
    assert [name for name, each in steps.items() if each.forced] == ["align"]
    assert [name for name, each in steps.items() if each.changed] == ["align", "evaluate", "gate", "report"]
    forced = [each.name for each in pipeline.plan(toy, from_stage="align", force=True) if each.forced]
    assert forced == ["align", "evaluate", "gate", "report"]
    assert all(each.forced for each in pipeline.plan(toy, force=True))
    with pytest.raises(ValueError, match=r"--from-stage bogus: no such stage; dvc\.yaml has align"):
        pipeline.plan(toy, from_stage="bogus")


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
    with pytest.raises(pipeline.StageError, match="ingest was told to fail") as caught:
        run(toy, "ingest")
    assert caught.value.status == 4
    edit("ingest", fail=stage.BUSY)
    with pytest.raises(pipeline.TransientError):
        run(toy, "ingest")


def test_a_crash_without_a_word_is_status_1(toy: Path) -> None:
    (toy / "stages.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(pipeline.StageError, match="failed to reproduce 'ingest'") as caught:
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
    with pytest.raises(pipeline.StageError, match="longer than its deadline of 3 s"):
        run(toy, "ingest")
    assert not alive(int((toy / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_stop_ends_the_stage_from_another_thread(toy: Path) -> None:
    (toy / "stages.py").write_text(SLEEPER)
    running = pipeline.Running()
    caught: list[BaseException] = []

    def body() -> None:
        try:
            pipeline.run(toy, step(toy, "ingest"), running)
        except pipeline.StageError as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    pid = int(wait_for(toy / "pid"))
    running.stop()
    thread.join(20)
    assert caught
    assert not alive(pid)
    with pytest.raises(pipeline.StageError, match="stopped"):
        pipeline.run(toy, step(toy, "ingest"), running)


def test_the_environment_is_quiet_offline_and_shares_the_cores(toy: Path, edit: Edit, monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    env = pipeline.environment(toy, step(toy, "sft"))
    assert env["PLUMBLINE_THREADS"] == "8"
    assert env["DO_NOT_TRACK"] == "true"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert pipeline.environment(toy, step(toy, "ingest"))["PLUMBLINE_THREADS"] == "4"
    edit("model", base="org/model")
    assert pipeline.uses_hub(toy)
    edit("model", base="data")  # a folder of the project
    assert not pipeline.uses_hub(toy)
    edit("ingest", sources=[{"kind": "hub", "name": "org/data"}])
    assert pipeline.uses_hub(toy)


def test_the_input_hash_names_what_a_stage_computes_from(toy: Path, edit: Edit) -> None:
    repro()
    first = pipeline.input_hash(toy, "reward@0")
    assert first == pipeline.input_hash(toy, "reward@0")
    edit("reward", steps=9)
    assert pipeline.input_hash(toy, "reward@0") != first


def test_accepted_shards_come_under_dvcs_care_and_back_from_its_cache(toy: Path) -> None:
    rows = toy / "data/shards/rows"
    rows.mkdir()
    (rows / "one.jsonl").write_text("{}\n")
    pipeline.version_shards(toy)
    assert (toy / "data/shards/rows.dvc").is_file()
    (rows / "two.jsonl").write_text("{}\n")
    pipeline.version_shards(toy)
    for path in rows.iterdir():
        path.unlink()
    rows.rmdir()
    pipeline.plan(toy)
    assert sorted(path.name for path in rows.iterdir()) == ["one.jsonl", "two.jsonl"]
