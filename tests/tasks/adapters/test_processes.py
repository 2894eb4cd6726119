"""A stage in several processes: one report, one clear line for a failure, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.adapters import processes

ROOT = Path(__file__).parents[3]
STAGE = """
import contextlib, os, sys, time
from tasks.adapters import processes, stage
class Params(stage.Params):
    what: str
    rank: str
@contextlib.contextmanager
def apart():  # ranks that need not meet need no torch
    yield
if sys.argv[1:] != ["together"]:
    processes.joined = apart
def run(params, data, tracker):
    rank = os.environ.get("RANK", "alone")
    os.write(1, f"{rank} {os.getpid()}\\n".encode())  # in one piece: both ranks write to one pipe
    (data / f"begun-{rank}").touch()
    if sys.argv[1:] == ["together"]:
        from tasks.rlhf import ranks
        total = ranks.current().add({"ranks": 1.0, rank: 1.0})
        tracker.log(1, 1, **total)
        return total
    if rank == params.rank:
        while len(list(data.glob("begun-*"))) < 2:
            time.sleep(0.02)
        if params.what == "data":
            raise ValueError("data/x: a bad row; mend it")
        if params.what == "bug":
            raise KeyError("bug")
        if params.what == "killed":
            os.kill(os.getpid(), 9)
    time.sleep(900)
stage.main(stage.Stage("sft", Params, run, reads=(), writes=(), trains=True))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(what, rank): the stage as two processes, of which one comes to something."""
    (tmp_path / "run.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(processes.COUNT, "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)

    def begin(what, rank, *arguments):
        Path("params.yaml").write_text(f"sft: {{what: {what}, rank: '{rank}'}}\n")
        command = [sys.executable, "run.py", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


def pids(process):
    """Of both ranks, once both have begun."""
    return [int(process.stdout.readline().split()[1]) for _ in range(2)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_end(pids):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_the_ranks_meet_and_one_reports(start):
    with start("work", "none", "together") as process:
        told, errors = process.communicate()
        assert process.returncode == 0, errors
    assert sorted(line.split()[0] for line in told.splitlines()) == ["0", "1"]
    report = json.loads(Path("data/reports/sft.json").read_text())
    assert report["metrics"] == {"ranks": 2.0, "0": 1.0, "1": 1.0}
    assert Path("data/curves/sft.csv").read_text() == "step,0,1,ranks\n1,1,1,2\n"
    assert json.loads(Path("data/runs/sft/sidecar.json").read_text())["processes"] == 2
    assert len(Path("data/runs/sft/telemetry.jsonl").read_text().splitlines()) == 1
    assert not list(Path("data/runs/sft/ranks").iterdir())


@pytest.mark.parametrize("rank", [0, 1])
def test_bad_data_is_one_clear_line(start, rank):
    with start("data", rank) as process:
        both = pids(process)
        assert process.stderr.read() == "error: sft: data/x: a bad row; mend it\n"
        assert process.wait() == 2
    failure = json.loads(Path("data/runs/sft/failure.json").read_text())
    assert (failure["status"], failure["message"]) == (2, "data/x: a bad row; mend it")
    assert "Traceback" in failure["traceback"]
    assert all_end(both)
    assert not Path("data/reports/sft.json").exists()


def test_a_bug_shows_the_traceback_of_its_rank(start):
    with start("bug", 1) as process:
        both = pids(process)
        errors = process.stderr.read()
        assert process.wait() == 1
    assert errors.startswith("Traceback")
    assert errors.endswith("error: sft: KeyError: 'bug'\n")
    assert not Path("data/runs/sft/failure.json").exists()  # as with one process: a crash is no message to a person
    assert all_end(both)


def test_a_rank_that_is_killed_is_named(start):
    with start("killed", 1) as process:
        both = pids(process)
        assert process.stderr.read() == "error: sft: rank 1 of 2 was killed (out of memory?); the others were ended\n"
        assert process.wait() == 1
    assert all_end(both)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_ranks_end_with_their_starter(start, signum):
    with start("sleep", "none") as process:
        both = pids(process)
        assert all(map(alive, both))
        process.send_signal(signum)
        assert all_end(both)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_a_bad_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(processes.COUNT, text)
    with pytest.raises(ValueError, match=rf"PLUMBLINE_PROCESSES = '{text}': must be a number of processes"):
        processes.wanted()


@pytest.mark.parametrize(
    ("count", "shard", "message"),
    [("1", "1", "nothing to share with one process"), ("2", "yes", "'yes': must be 1, to shard models")],
)
def test_a_shard_of_nothing_is_refused(monkeypatch, count, shard, message):
    monkeypatch.setenv(processes.COUNT, count)
    monkeypatch.setenv(processes.SHARD, shard)
    with pytest.raises(ValueError, match=f"^PLUMBLINE_SHARD = .*{message}"):
        processes.wanted()


def test_the_cores_are_shared(monkeypatch):
    monkeypatch.setenv("PLUMBLINE_THREADS", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    shares = processes._threads(3)
    assert (shares["PLUMBLINE_THREADS"], shares["OMP_NUM_THREADS"]) == ("2", "1")
    assert "MKL_NUM_THREADS" not in shares


def word(folder, rank, status, at):
    text = {"status": status, "message": f"of {rank}", "traceback": "", "time": at}
    (folder / f"{rank}.json").write_text(json.dumps(text))


def test_the_first_failure_is_the_cause(tmp_path):
    """Rank 0 crashes over the loss of rank 1 and is seen first; so it goes with a rank that was killed."""
    word(tmp_path, 0, 1, 5.0)
    word(tmp_path, 1, 1, 4.0)
    assert str(processes._cause([1, 1], tmp_path)) == "of 1"
    assert "rank 2 of 3 was killed" in str(processes._cause([1, 1, -9], tmp_path))
    word(tmp_path, 0, 2, 5.0)
    error = processes._cause([2, 1], tmp_path)
    assert (str(error), error.status) == ("of 0", 2)
    assert str(processes._cause([0, 3], Path(os.devnull))) == (
        "rank 1 of 2 ended without a word, status 3; the others were ended"
    )
