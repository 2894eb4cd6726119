"""Running Python that nobody has read, fenced in by the Linux kernel.

In namespaces of its own a program has no network, sees no process but its own, and of the file system only Python and
the system's libraries, read-only, and an empty folder. Its environment is empty; time, memory, processes, files and
output are limited; nothing of it outlives it. Needs Linux 5.14 and either root or user namespaces. Not a virtual
machine: a hole in the kernel is a hole in it.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO

JAIL = Path(__file__).with_name("jail.py")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True, kw_only=True)
class Limits:
    seconds: float = 5.0  # of wall time, the start of Python included
    cpu_seconds: int = 5  # of a process
    memory_mb: int = 256  # of address space of a process
    processes: int = 8  # and threads
    open_files: int = 32
    file_mb: int = 1  # of a file, and of what is printed
    folder_mb: int = 16


@dataclass(frozen=True)
class Outcome:
    code: int | None  # exit status, 128 + signal where one ended it; None: time was up
    stdout: str
    stderr: str


class NoSandboxError(ValueError):
    """This machine cannot fence a program in; the message says what is missing and the remedy."""


def run(program: str, limits: Limits, *, allow_unsandboxed: bool = False) -> Outcome:
    """Run a Python program to its end, or to its limits.

    Raises NoSandboxError where isolation is missing. With `allow_unsandboxed` the program then runs all the same, in
    an empty folder with an empty environment and the limits, but with the network, the files and the rights of this
    user: for programs that you would run yourself.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        order = {"program": program, "folder": folder, "limits": asdict(limits), "hidden": str(Path.cwd()), **_python()}
        code, missing = _start({**order, "isolate": True}, limits.seconds, stdout, stderr)
        if missing and not allow_unsandboxed:
            raise NoSandboxError(
                f"sandbox: code is not run: the isolation that it needs is missing here ({missing}); run on Linux >= "
                "5.14 as root or with user namespaces allowed, or set align.rewards.allow_unsandboxed: true"
            )
        if missing:
            code, broken = _start({**order, "isolate": False}, limits.seconds, stdout, stderr)
            if broken:
                raise OSError(f"sandbox: the program could not be started: {broken}")
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read(limits.file_mb * 1024 * 1024).decode("utf-8", errors="replace"))
        return Outcome(code, *texts)


def check(limits: Limits, *, allow_unsandboxed: bool) -> None:
    """Run a harmless program; NoSandboxError where that cannot be done here."""
    outcome = run("print(6 * 7)", limits, allow_unsandboxed=allow_unsandboxed)
    if (outcome.code, outcome.stdout) != (0, "42\n"):
        raise NoSandboxError(
            f"sandbox: a harmless program did not run within its limits (exit status {outcome.code}): "
            f"{' '.join(outcome.stderr.split())[-300:] or 'time was up'}; raise align.rewards.sandbox"
        )


def runner(*, seconds: float, memory_mb: int, allow_unsandboxed: bool) -> Callable[[str], str | None]:
    """A function that runs a program and gives what it printed; None where it failed. The first call checks first."""
    limits = Limits(seconds=seconds, cpu_seconds=math.ceil(seconds), memory_mb=memory_mb)

    @cache
    def checked() -> None:
        check(limits, allow_unsandboxed=allow_unsandboxed)

    def run_code(program: str) -> str | None:
        checked()
        outcome = run(program, limits, allow_unsandboxed=allow_unsandboxed)
        return outcome.stdout if outcome.code == 0 else None

    return run_code


def _python() -> dict[str, object]:
    """The interpreter itself, not a virtual environment's, and what it needs of the file system."""
    base = Path(sys.base_prefix)
    python = (base / f"bin/python{sys.version_info.major}.{sys.version_info.minor}").resolve()
    wanted = {*LIBRARIES, str(base / "lib"), str(base / "lib64"), str(python)}
    return {"python": str(python), "visible": sorted(path for path in wanted if os.path.exists(path))}


def _start(order: dict[str, object], seconds: float, stdout: IO[bytes], stderr: IO[bytes]) -> tuple[int | None, str]:
    """(exit status, or None where time was up; why it could not be fenced in)."""
    status, written = os.pipe()
    with open(status, encoding="utf-8") as told:
        process = subprocess.Popen(
            [str(order["python"]), "-I", "-S", "-B", str(JAIL), str(written)],
            stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env={}, pass_fds=[written], start_new_session=True,
        )  # fmt: skip
        os.close(written)
        code: int | None = None
        try:
            process.communicate(json.dumps(order).encode(), timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):  # nobody is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return code, told.read()
