"""Prefect's temporary server: there for one command, gone with it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from flows import server

COMMAND = """
import os, sys, urllib.request
from pathlib import Path
from flows import server
wait = server.temporary(Path(), Path())
wait()
import psutil
print(os.environ["PREFECT_API_URL"], [p.pid for p in psutil.Process().children()][0])
print(urllib.request.urlopen(os.environ["PREFECT_API_URL"] + "/health").read().decode())
from prefect import flow, get_run_logger
@flow
def hello():
    get_run_logger().info("said")
hello()
"""


def test_it_serves_the_command_and_ends_with_it(toy: Path, prefect_database: Callable[[Path], None]) -> None:
    prefect_database(toy)
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    address, pid, answer = done.stdout.split()[:3]
    assert address.startswith("http://127.0.0.1:")
    assert answer == "true"
    assert "Error" not in done.stderr  # the last log lines reached it
    assert not psutil.pid_exists(int(pid))
    assert (toy / ".prefect/server.log").is_file()


def test_a_server_of_the_environment_is_used_instead(toy: Path, monkeypatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    before = dict(os.environ)
    children = len(psutil.Process().children())
    try:
        server.temporary(toy, toy)()
        assert os.environ["PREFECT_API_URL"] == "http://elsewhere/api"
        assert len(psutil.Process().children()) == children
    finally:
        os.environ.clear()
        os.environ.update(before)
