"""The stage runner: strict parameters, locks, statuses, and files that are never torn."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pydantic
import pytest
from pydantic import Field

from tasks.adapters import stage

ROOT = Path(__file__).parents[3]


class Params(stage.Params):
    seed: int
    lr: float = Field(gt=0)


STAGE = """
import sys, time
from tasks.adapters import stage
class Params(stage.Params):
    seed: int
    what: str
def run(params, data, tracker):
    if params.what == "data":
        raise ValueError("data/x: a bad row; mend it")
    if params.what == "contract":
        raise stage.ContractError("a broken contract")
    if params.what == "bug":
        raise KeyError("bug")
    if params.what == "sleep":
        time.sleep(60)
    tracker.log(1, 1, loss=0.5)
    tracker.measure(1, 1, tokens_per_second=9.0)
    (data / "out").write_text("x")
    return {"accuracy": stage.Estimate(0.5, 10, 0.4, 0.6)}
stage.main(stage.Stage("sft", Params, run, reads=(), writes=("out",)))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "run.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(what):
    Path("params.yaml").write_text(f"seed: 1\nsft: {{what: {what}}}\n")
    return subprocess.Popen([sys.executable, "run.py"], stderr=subprocess.PIPE, text=True)


def test_report_curve_and_sidecar(folder):
    with start("work") as process:
        assert process.wait() == 0
    report = json.loads(Path("data/reports/sft.json").read_text())
    assert report["params"] == {"seed": 1, "what": "work"}
    assert report["metrics"] == {"accuracy": {"value": 0.5, "n": 10, "low": 0.4, "high": 0.6}}
    assert list(report["outputs"]) == ["out"]
    # What differs from run to run stays out of what DVC hashes.
    assert Path("data/curves/sft.csv").read_text() == "step,loss\n1,0.5\n"
    assert json.loads(Path("data/runs/sft/sidecar.json").read_text())["peak_memory_mb"] > 1
    lines = [json.loads(line) for line in Path("data/runs/sft/telemetry.jsonl").read_text().splitlines()]
    assert [line["metrics"] for line in lines] == [{"loss": 0.5}, {"tokens_per_second": 9.0}]


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [("data", 2, "a bad row; mend it"), ("contract", 4, "a broken contract"), ("bug", 1, "KeyError")],
)
def test_status_and_one_clear_line(folder, what, status, message):
    with start(what) as process:
        errors = process.stderr.read()
        assert process.wait() == status
    assert message in errors
    if status != 1:
        assert errors.count("\n") == 1
        failure = json.loads(Path("data/runs/sft/failure.json").read_text())
        assert failure["status"] == status
        assert "Traceback" in failure["traceback"]
    assert not Path("data/reports/sft.json").exists()


def test_a_held_stage_is_busy_and_names_the_holder(folder):
    with start("sleep") as first:
        lock = Path("data/.lock/sft")
        while not lock.exists() or not lock.read_text():
            time.sleep(0.05)
        with start("work") as second:
            errors = second.stderr.read()
            assert second.wait() == stage.BUSY
        assert f"pid {first.pid}" in errors
        first.kill()
    with start("work") as third:  # the kernel has freed the lock of the dead
        assert third.wait() == 0


def test_a_stage_dies_with_the_process_that_started_it(folder):
    Path("params.yaml").write_text("seed: 1\nsft: {what: sleep}\n")
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, 'run.py'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        while not Path("data/.lock/sft").exists():
            time.sleep(0.05)
        time.sleep(0.2)
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_numbers_are_those_that_dvc_reads(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\nsft: {lr: 1e-3}\n")
    assert stage.read_params(Params, "sft", path).lr == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nsft: {lr: 0}\n", "sft.lr = 0: Input should be greater than 0"),
        ("seed: 1\nsft: {lr: 1, rl: 2}\n", "sft.rl = 2: unknown key"),
        ("seed: 1\nsft: {}\n", "sft.lr: Field required"),
        ("seed: one\nsft: {lr: 1}\n", "params.yaml: seed = 'one': Input should be a valid integer"),
        ("seed: 1\nsfft: {lr: 1}\n", "unknown key `sfft`"),
        ("seed: 1\nrecords: {lr: 1}\n", "unknown key `records`"),  # a module of tasks, but no stage
        ("seed: 1\nsft: 3\n", "`sft` is 3; it must be a mapping"),
        ("- 1\n", "must hold keys and values, not list"),
        ("a: [\n", "not YAML"),
        ("seed: 1\nseed: 2\n", "key `seed` stands twice"),
    ],
)
def test_wrong_params_name_key_and_value(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        stage.read_params(Params, "sft", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own: {part: {lr: 0}}\n", "own.part.lr = 0: Input should be greater than 0"),
        ("own: {part: {lr: 1, rl: 2}}\n", "own.part.rl = 2: unknown key"),
        ("own: {part: 3}\n", "`part` of `own.part` is 3; it must be a mapping"),
        ("own: 3\n", "`own` of `own.part` is 3; it must be a mapping"),
    ],
)
def test_a_part_of_a_section_is_read_as_strictly(tmp_path, text, message):
    class Part(stage.Params):
        lr: float = pydantic.Field(1.0, gt=0)

    path = tmp_path / "params.yaml"
    path.write_text("own: {part: {lr: 2}}\n")
    assert stage.read_part(Part, "own.part", path).lr == 2
    path.write_text("own:\n")
    assert stage.read_part(Part, "own.part", path).lr == 1
    path.write_text(text)
    with pytest.raises(ValueError, match="own") as caught:
        stage.read_part(Part, "own.part", path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
