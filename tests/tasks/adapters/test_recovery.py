"""What a killed run leaves behind is cleared; what is alive is named."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.adapters import execution, graph, recovery, stage


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_orphans_of_a_killed_run_are_ended_and_others_are_not(toy: Path) -> None:
    orphan = abandoned({execution.MARK: str(toy.resolve())})
    other = abandoned({execution.MARK: str(toy / "elsewhere")})
    own = subprocess.Popen(  # of this run, as its Prefect server is
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, execution.MARK: str(toy.resolve())}
    )
    time.sleep(0.3)
    try:
        assert recovery.end_orphans(toy) == [orphan]
        assert not psutil.pid_exists(orphan)
        assert psutil.pid_exists(other)
        assert own.poll() is None
    finally:
        os.kill(other, signal.SIGKILL)
        own.kill()
        own.wait()


def abandoned(variables: dict[str, str]) -> int:
    """The pid of a process whose parent has ended."""
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True); print(p.pid); p.returncode = 0"
    )
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=True).stdout)


def test_dead_holders_leave_dvcs_lock_table_and_live_ones_are_named(toy: Path) -> None:
    table = toy / ".dvc/tmp/rwlock"
    table.parent.mkdir(parents=True, exist_ok=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    entry = {"pid": gone.pid, "cmd": "dvc repro"}
    table.write_text(json.dumps({"read": {"a": [entry]}, "write": {"b": entry}}))
    recovery.clear_dead_locks(toy)
    assert not table.exists()
    table.write_text('{"read": {"a"')  # torn by a kill
    recovery.clear_dead_locks(toy)
    assert not table.exists()
    live = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dvc"])
    time.sleep(0.3)
    try:
        table.write_text(json.dumps({"write": {"b": {"pid": live.pid, "cmd": "dvc repro"}}}))
        with pytest.raises(stage.BusyError, match=f"pid {live.pid} \\(dvc repro\\)"):
            recovery.clear_dead_locks(toy)
    finally:
        live.kill()
        live.wait()


@pytest.mark.parametrize("share", [0.0, 0.37, 0.6])
def test_a_torn_dvc_lock_is_cleared_and_the_run_cache_finds_everything_again(toy: Path, share: float) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True, capture_output=True)
    path = toy / "dvc.lock"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])  # `dvc` rewrites it in place: a kill leaves a part
    (toy / "executed.log").unlink()
    recovery.clear(toy)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True, capture_output=True)
    assert path.read_bytes() == whole
    assert not (toy / "executed.log").exists()


def test_a_whole_dvc_lock_stays(toy: Path) -> None:
    assert not recovery.clear_torn_lock(toy)
    (toy / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert not recovery.clear_torn_lock(toy)
    assert graph.read_lock(toy)["stages"] == {}


def test_dvc_lock_is_never_read_while_dvc_rewrites_it(toy: Path) -> None:
    """A writer that empties the file and fills it slowly, under DVC's lock as `dvc` does."""
    writer = """
import time, zc.lockfile, pathlib
lock = zc.lockfile.LockFile('.dvc/tmp/lock')
pathlib.Path('dvc.lock').write_text('')
print('empty', flush=True)
time.sleep(0.5)
pathlib.Path('dvc.lock').write_text('stages: {a: {cmd: x}}')
lock.close()
"""
    (toy / ".dvc/tmp").mkdir(exist_ok=True)
    with subprocess.Popen([sys.executable, "-c", writer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "empty\n"
        assert graph.read_lock(toy) == {"stages": {"a": {"cmd": "x"}}}
