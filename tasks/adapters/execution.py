"""A stage as a process of its own: `dvc repro --single-item STAGE` in its own process group.

So a deadline or a cancelled flow ends the stage with everything it started.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from tasks.adapters import stage, warm
from tasks.adapters.graph import Step
from tasks.adapters.warm import WarmProcess

Outcome = Literal["ran", "cached", "unchanged", "failed"]

# Every process of a flow run carries it, so that the next run finds what a killed one left behind.
MARK = "PLUMBLINE_WORKSPACE"
OFFLINE = {
    flag: "1" for flag in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
}
LIGHT_SLOTS = 2  # stages without `training` that may run side by side
_BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
SECONDS_TO_DIE = 10.0


@dataclass(frozen=True)
class Result:
    """How a stage ended. `status` is the stage's own exit status (0 where it did not run)."""

    name: str
    outcome: Outcome
    seconds: float = 0.0
    status: int = 0
    message: str = ""


class TransientError(Exception):
    """The stage did not get its turn (a lock was held); trying again may help."""


class StageError(Exception):
    """A stage failed; `status` says how (see tasks.adapters.stage)."""

    def __init__(self, name: str, status: int, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.status, self.message = name, status, message


def environment(root: Path, step: Step) -> dict[str, str]:
    """The environment of a stage: quiet, offline unless params name something remote, its share of the cores."""
    cores = os.cpu_count() or 1
    threads = cores if step.training else max(1, cores // LIGHT_SLOTS)
    offline = {} if uses_hub(root) else OFFLINE
    return {
        **quiet_environment(),
        **offline,
        "PYTHONUNBUFFERED": "1",
        "PLUMBLINE_THREADS": str(threads),
        MARK: str(root.resolve()),
    }


def quiet_environment() -> dict[str, str]:
    """The present environment with telemetry off and this interpreter's programs first."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {**os.environ, **stage.QUIET, "PATH": path}


def uses_hub(root: Path) -> bool:
    """Whether params.yaml names a data source or a base model of the Hugging Face hub."""
    params = stage.read_yaml(root / "params.yaml")
    sources = (params.get("ingest") or {}).get("sources") or []
    base = (params.get("model") or {}).get("base", "scratch")
    remote_model = base != "scratch" and not (root / base).exists()
    return remote_model or any(isinstance(source, dict) and source.get("kind") == "hub" for source in sources)


@dataclass(frozen=True)
class Warm:
    """What stages, and DVC for them, are forked from (tasks/adapters/warm.py)."""

    light: WarmProcess
    training: WarmProcess | None  # None: fewer than two stages train

    def addresses(self, step: Step) -> dict[str, str]:
        """Variables for the `dvc` of a step."""
        if self.training is None:
            return {warm.ADDRESS: os.pathsep.join((self.light.address, self.light.address))}
        # Not before the first stage runs: until then Prefect's server and client want both cores.
        self.training.start()
        stage = self.training if step.training else self.light
        return {warm.ADDRESS: os.pathsep.join((self.light.address, stage.address))}


class Running:
    """The stages that run now; `stop` ends them all, whichever thread started them."""

    def __init__(self, forked_from: Warm | None = None) -> None:
        self._warm = forked_from
        self.dvc = ("dvc",) if forked_from is None else (warm.FORKED, "dvc")
        self._groups: dict[int, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def started(self, step: Step, root: Path, command: list[str]) -> Iterator[subprocess.Popen[str]]:
        """A process in a group of its own; the group is gone when the block ends."""
        with self._lock:
            if self._stopped:
                raise StageError(step.name, 1, "not started: the run was stopped")
            process = subprocess.Popen(
                command,
                cwd=root,
                env=environment(root, step) | (self._warm.addresses(step) if self._warm else {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,
            )
            self._groups[process.pid] = process
        try:
            yield process
        finally:
            end_group(process)
            assert process.stdout is not None
            process.stdout.close()
            with self._lock:
                del self._groups[process.pid]

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """End them, and let none start again. Nothing is left where it was done before."""
        with _undisturbed():
            with self._lock:
                self._stopped = True
                groups = list(self._groups.values())
            for process in groups:
                end_group(process)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Deaf to SIGTERM and SIGINT: a second one, of two parents or of an impatient person, must not stop the ending."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


_warm: dict[Path, Warm] = {}  # this process's warm processes, by workspace


@contextmanager
def warmed(root: Path, steps: Sequence[Step]) -> Iterator[Warm | None]:
    """Processes to fork the stages of `steps` from, each where two stages want it.

    Inside another such block for the workspace they are that block's.
    """
    changed = [step for step in steps if step.changed]
    training = [step for step in changed if step.training]
    if root in _warm or len(changed) < 2 or not (root / "tasks/adapters/warm.py").is_file():
        yield _warm.get(root)
        return
    variables = environment(root, (training or changed)[0])
    variables |= stage.threads_environment(variables["PLUMBLINE_THREADS"])
    with WarmProcess(variables, warm.LIGHT) as light, WarmProcess(variables, warm.TRAINING) as heavy:
        light.start()
        _warm[root] = Warm(light, heavy if len(training) > 1 else None)
        try:
            yield _warm[root]
        finally:
            del _warm[root]


def end_group(process: "subprocess.Popen[str]") -> None:
    """SIGTERM to a process group, SIGKILL to what that does not end; all of it is gone afterwards."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
        except (ProcessLookupError, PermissionError):  # gone, or (macOS) only zombies are left
            break
        deadline = time.monotonic() + SECONDS_TO_DIE
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=SECONDS_TO_DIE)
        while _has_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    process.wait()


def _has_members(group: int) -> bool:
    """Whether a process of the group is alive; a zombie is not."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def run(root: Path, step: Step, running: Running, say: Callable[[str], None] = lambda line: None) -> Result:
    """Run one stage and say how it ended; every line it prints goes to `say`.

    Raises StageError when it failed and TransientError when it did not get a lock.
    """
    command = [sys.executable, "-m", *running.dvc, "--wait-for-lock", "repro", "--single-item", step.name]
    command += ["--force"] if step.forced else []
    runs = root / "data/runs" / step.name
    failure = runs / "failure.json"
    for old in (failure, runs / "telemetry.jsonl"):
        old.unlink(missing_ok=True)
    started = time.monotonic()
    lines: list[str] = []
    with running.started(step, root, command) as process:
        overdue = threading.Event()

        def end() -> None:
            overdue.set()
            end_group(process)

        timer = threading.Timer(step.deadline or threading.TIMEOUT_MAX, end)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                say(lines[-1])
            code = process.wait()
        finally:
            timer.cancel()
    seconds = time.monotonic() - started
    if overdue.is_set():
        raise StageError(step.name, 1, f"took longer than its deadline of {step.deadline:g} s (`meta` in dvc.yaml)")
    if code == 0:
        return Result(step.name, _outcome(step.name, lines), seconds)
    raise _failure(step.name, failure, lines)


def _outcome(name: str, lines: list[str]) -> Outcome:
    if f"Stage '{name}' is cached - skipping run, checking out outputs" in lines:
        return "cached"
    if f"Stage '{name}' didn't change, skipping" in lines:
        return "unchanged"
    return "ran"


def _failure(name: str, path: Path, lines: list[str]) -> Exception:
    """DVC exits 255 for every failed command; the stage left its own status and reason in a file."""
    if path.is_file():
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["status"] == stage.BUSY:
            return TransientError(f"{name}: {report['message']}")
        return StageError(name, report["status"], report["message"])
    if any(_BUSY.search(line) for line in lines):
        return TransientError(f"{name}: {_last(lines)}")
    return StageError(name, 1, _last(lines))


def _last(lines: list[str]) -> str:
    errors = [line for line in lines if line.startswith("ERROR:")] or [line for line in lines if line]
    return errors[-1].removeprefix("ERROR: ") if errors else "ended without a word (killed?)"
