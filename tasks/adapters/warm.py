"""A process that has imported large libraries and forks from itself, on request, what wants to use them.

Six stages of a run import torch and transformers, 4 s each, and twelve start DVC. A flow has one such process for each
of the two; `python -m tasks.sft` then hands itself over (tasks/__init__.py): a fork runs it with its
arguments, environment, folder, process group and output. Without it (`dvc repro` by hand) a stage imports for itself;
the results are the same.

Only libraries are imported here, never the project: a stage always runs the code that lies in its folder. The fork
ends when its caller does, however that ends, so that a killed `dvc` leaves no writer behind.
"""

import ctypes
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Where a module finds its process: the path of a unix socket. Of several, joined by os.pathsep, the first is its own
# and the others are for what it starts in turn.
ADDRESS = "PLUMBLINE_WARM"
FORKED = "tasks.adapters.forked"  # `python -m FORKED MODULE` hands a module over that does not do so itself
STAGE = ("yaml", "pydantic", "pyarrow.parquet")
LIGHT = (*STAGE, "dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce")
TRAINING = (*STAGE, "torch", "transformers.models.llama.modeling_llama")
_MAX_REQUEST = 2**20


class WarmProcess:
    """A process with these libraries, once it was asked to start; it ends with the block, or with this process."""

    def __init__(self, environment: Mapping[str, str], libraries: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory()  # mode 0700: the socket is for this user alone
        self.address = str(Path(self._folder.name) / "warm")
        self._environment, self._libraries = dict(environment), libraries
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, where it was not started before. Does not wait: requests do."""
        if self._process is None:
            # It ends when its stdin does, so also when this process is killed. In this session, for a process can only
            # join groups of its own; in a group of its own, so that Ctrl-C is this process's to handle.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
                listening.bind(self.address)  # here: whoever asks from now on waits, however slowly it starts
                listening.listen()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tasks.adapters.warm", str(listening.fileno()), *self._libraries],
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    process_group=0,
                    pass_fds=[listening.fileno()],
                )

    def __enter__(self) -> "WarmProcess":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes its stdin and waits
                pass
        self._folder.cleanup()


def hand_over_stage() -> None:
    """Have this process's command, `python -m tasks.<stage>`, run by the warm process: returns only without one."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if module.count(".") == 1:  # not what helps stages along, such as forked.py
        die_with_parent()
        status = hand_over(module, [module, *sys.argv[1:]])
        if status is not None:
            sys.exit(status)


def hand_over(module: str, argv: Sequence[str]) -> int | None:
    """Have a module run by the warm process as a program; its exit status, None where there is no such process."""
    address, _, others = os.environ.pop(ADDRESS, "").partition(os.pathsep)
    if others:
        os.environ[ADDRESS] = others
    if not address:
        return None
    request = {
        "module": module,
        "argv": list(argv),
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "group": os.getpgrp(),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
        except OSError:  # gone: this process can do it as well
            return None
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        answer = connection.recv(1)
    return answer[0] if answer else 128 + signal.SIGKILL


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent: a killed `dvc` must not leave a writer behind."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(descriptor: int, libraries: Sequence[str]) -> None:
    """Fork for every request at this listening socket, for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with socket.socket(fileno=descriptor) as server:
        for library in libraries:
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
        with suppress(PermissionError):  # of another session: it still ends with its caller
            os.setpgid(0, int(str(request["group"])))  # what ends the caller's group ends this too
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
    serve(int(sys.argv[1]), sys.argv[2:])
