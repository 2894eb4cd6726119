"""A process that has imported torch and transformers and forks a training stage from itself on request.

Six stages of a run import the same libraries, 4 s each. The flow starts this process while ingest has the other core;
`python -m tasks.sft` then hands itself over (`hand_over`): a fork runs the stage with the caller's arguments,
environment, folder and output. Without it (`dvc repro` by hand) a stage imports for itself; the results are the same.

Only libraries are imported here, never the project: a stage always runs the code that lies in its folder. The fork
ends when its caller does, however that ends, so that a killed `dvc` leaves no writer behind.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ADDRESS = "PLUMBLINE_WARM"  # where a stage finds the process: the path of a unix socket
LIBRARIES = ("yaml", "pydantic", "pyarrow.parquet", "torch", "transformers.models.llama.modeling_llama")
_MAX_REQUEST = 2**20


@contextmanager
def started(environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a process that ends with the block, or with this process."""
    with tempfile.TemporaryDirectory() as folder:  # mode 0700: the socket is for this user alone
        address = str(Path(folder) / "warm")
        command = [sys.executable, "-m", "tasks.adapters.warm", address]
        # It ends when its stdin does, so also when this process is killed.
        with subprocess.Popen(command, env=dict(environment), stdin=subprocess.PIPE, start_new_session=True) as process:
            try:
                yield address
            finally:
                process.kill()


def hand_over() -> int | None:
    """Have this process's module run by the warm process; its exit status, None where there is no such process."""
    address = os.environ.pop(ADDRESS, None)
    spec = sys.modules["__main__"].__spec__
    if address is None or spec is None:
        return None
    request = {"module": spec.name, "argv": sys.argv, "environment": dict(os.environ), "folder": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
        except OSError:  # not there yet, or gone: this process can do it as well
            return None
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        answer = connection.recv(1)
    return answer[0] if answer else 128 + signal.SIGKILL


def serve(address: str) -> None:
    """Fork for every request, for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()
        for library in LIBRARIES:
            importlib.import_module(library)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        while True:
            connection, _ = server.accept()
            message, descriptors, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 3)
            if message and os.fork() == 0:
                server.close()
                _run(connection, json.loads(message), descriptors)
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)


def _run(connection: socket.socket, request: dict[str, object], descriptors: list[int]) -> None:
    """Be the stage: never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for standard, descriptor in enumerate(descriptors):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        os.chdir(str(request["folder"]))
        _forget_project(str(request["folder"]))
        sys.argv = list(request["argv"])  # type: ignore[call-overload]
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        status = _exit_status(str(request["module"]))
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(bytes([status & 0xFF]))
    finally:
        os._exit(status)


def _forget_project(folder: str) -> None:
    """The stage imports its own folder's packages, which for a recipe are not those this file came from."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        del sys.modules[name]
    sys.path[0] = folder


def _exit_status(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _end_with(connection: socket.socket) -> None:
    """Nothing ever comes from the caller but its end."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
