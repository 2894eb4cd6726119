"""Stages forked from a process that has the libraries: the same as started alone, and never outliving their caller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.adapters import warm

ROOT = Path(__file__).parents[3]
STAGE = """
import json, os, sys, time
from pathlib import Path
import tasks
Path("seen.json").write_text(json.dumps({
    "argv": sys.argv[1:], "pid": os.getpid(), "flag": os.environ.get("FLAG"), "folder": os.getcwd(),
    "libraries": sorted(name for name in sys.modules if name in ("torch", "yaml")), "code": tasks.__path__[0],
}))
print("out")
print("err", file=sys.stderr)
if "sleep" in sys.argv:
    time.sleep(60)
if "crash" in sys.argv:
    raise KeyError("broken")
sys.exit(7)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with warm.WarmProcess(os.environ, warm.TRAINING) as process:
            process.start()
            yield process.address


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with packages of its own, whose `tasks.toy` is a stage."""
    (tmp_path / "tasks/adapters").mkdir(parents=True)
    for package in ("tasks", "tasks/adapters"):
        (tmp_path / package / "__init__.py").write_text((ROOT / package / "__init__.py").read_text())
    (tmp_path / "tasks/adapters/warm.py").write_text(Path(warm.__file__).read_text())
    (tmp_path / "tasks/toy.py").write_text(STAGE)
    return tmp_path


def start(
    project: Path, address: str | None, *arguments: str, module: str = "tasks.toy", group: int | None = None
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=project,
        env={"PATH": os.environ["PATH"], "FLAG": "x"} | ({} if address is None else {warm.ADDRESS: address}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=group,
    )


def seen(project: Path) -> dict[str, object]:
    import json

    path = project / "seen.json"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return dict(json.loads(path.read_text()))


def test_a_fork_is_given_what_its_caller_was(project: Path, address: str) -> None:
    alone, forked = start(project, None, "a", "b"), None
    assert alone.communicate() == ("out\n", "err\n")
    first = seen(project)
    forked = start(project, address, "a", "b")
    assert forked.communicate() == ("out\n", "err\n")
    second = seen(project)
    assert alone.returncode == forked.returncode == 7
    assert first["libraries"] == []
    assert second["libraries"] == ["torch", "yaml"]
    same = ("argv", "flag", "folder", "code")
    assert [first[key] for key in same] == [second[key] for key in same]
    assert second["code"] == str(project / "tasks")
    assert second["pid"] != forked.pid


def test_a_crash_says_so(project: Path, address: str) -> None:
    process = start(project, address, "crash")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "KeyError: 'broken'" in errors


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_ends_with_its_caller(project: Path, address: str, signum: int) -> None:
    process = start(project, address, "sleep")
    pid = int(str(seen(project)["pid"]))
    process.send_signal(signum)
    process.wait()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid)
    process.communicate()


def test_a_killed_fork_is_a_killed_stage(project: Path, address: str) -> None:
    process = start(project, address, "sleep")
    os.kill(int(str(seen(project)["pid"])), signal.SIGKILL)
    process.communicate()
    assert process.returncode == 128 + signal.SIGKILL


def test_without_the_process_a_stage_runs_alone(project: Path) -> None:
    process = start(project, str(project / "nobody"))
    assert process.communicate() == ("out\n", "err\n")
    assert process.returncode == 7


def test_what_ends_the_callers_group_ends_the_fork(project: Path, address: str) -> None:
    process = start(project, address, "sleep", group=0)
    pid = int(str(seen(project)["pid"]))
    assert os.getpgid(pid) == process.pid
    os.killpg(process.pid, signal.SIGTERM)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid)
    process.communicate()
    assert process.returncode != 0


def test_a_module_is_handed_over_and_what_it_starts_has_the_next_address(project: Path, address: str) -> None:
    (project / "outer.py").write_text(
        "import os, subprocess, sys\n"
        "print('torch' in sys.modules, os.environ['PLUMBLINE_WARM'], sys.argv[1:], flush=True)\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'tasks.toy', 'inner']))\n"
    )
    (project / "tasks/adapters/forked.py").write_text((ROOT / "tasks/adapters/forked.py").read_text())
    process = start(project, os.pathsep.join((address, address)), "outer", "x", module="tasks.adapters.forked")
    assert process.communicate() == (f"True {address} ['x']\nout\n", "err\n")
    assert process.returncode == 7
    assert seen(project)["libraries"] == ["torch", "yaml"]


@pytest.mark.parametrize("arguments", [(), ("nobody",)])
def test_a_module_without_the_process_runs_alone(project: Path, arguments: tuple[str, ...]) -> None:
    (project / "outer.py").write_text("import sys; print(sys.argv[1:]); sys.exit(3)")
    (project / "tasks/adapters/forked.py").write_text((ROOT / "tasks/adapters/forked.py").read_text())
    nobody = str(project / arguments[0]) if arguments else None
    process = start(project, nobody, "outer", "x", module="tasks.adapters.forked")
    assert process.communicate() == ("['x']\n", "")
    assert process.returncode == 3


def test_it_ends_with_its_starter(project: Path) -> None:
    code = (
        "import os, sys, time; from tasks.adapters import warm\n"
        "with warm.WarmProcess(os.environ, warm.TRAINING) as process:\n"
        "    process.start()\n"
        "    print(next(p.pid for p in __import__('psutil').Process().children()), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        child = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    psutil.wait_procs([child], timeout=30)  # it looks at its stdin once the libraries are imported
    assert not child.is_running()
