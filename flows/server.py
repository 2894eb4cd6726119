"""Prefect servers that a command starts for itself."""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows import settings
from tasks.adapters import execution

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0


def temporary(home: Path, workspace: Path) -> Callable[[], None]:
    """Start Prefect's API for the rest of this process, where the environment names no server.

    `home` keeps its database. Returns a function that waits until it answers: it starts beside what the caller does
    until then. Prefect would start the same process at its first call, but make this one import the whole server first.
    """
    settings.apply(home)
    if "PREFECT_API_URL" in os.environ:
        return lambda: None
    command = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error"]
    # As Prefect has it for its own temporary servers: no pages, and only the services that a run needs.
    variables = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    # The mark lets the next run end a server that a killed one has left.
    process, wait = _start(command, variables | {execution.MARK: str(workspace.resolve())})
    # What is registered first runs last: Prefect, not yet imported, sends its last log lines before that.
    atexit.register(_stop, process)
    return wait


@contextmanager
def complete(home: Path) -> Iterator[str]:
    """A whole Prefect server with its database in `home`; its API address. Sets the environment to use it."""
    settings.apply(home)
    process, wait = _start(["-m", "prefect", "server", "start", "--no-ui"], {})
    try:
        wait()
        yield os.environ["PREFECT_API_URL"]
    finally:
        _stop(process)


def _start(command: Sequence[str], variables: dict[str, str]) -> tuple["subprocess.Popen[bytes]", Callable[[], None]]:
    port = free_port()
    log_path = Path(os.environ["PREFECT_HOME"]) / "server.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_API_URL"] = address = f"http://127.0.0.1:{port}/api"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the run: it still has to say how it ended
        )
    return process, lambda: _wait_for(f"{address}/health", process, log_path)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the Prefect server ended with status {process.returncode}; see {log}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the Prefect server did not answer within {_START_SECONDS:g} s; see {log}")


def main() -> None:
    """Create Prefect's database, which takes a server some ten seconds the first time it starts."""
    temporary(Path(), Path())()


if __name__ == "__main__":
    main()
