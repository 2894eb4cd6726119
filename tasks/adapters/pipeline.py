"""DVC as seen by a flow: what of the graph has to run, and one stage as a process of its own.

`plan` reads dvc.yaml and dvc.lock in this process, without Prefect. `run` is `dvc repro --single-item STAGE` in
its own process group, so that a deadline or a cancelled flow ends the stage with everything it started.
"""

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from tasks.adapters import stage, warm
from tasks.adapters.warm import WarmProcess

Outcome = Literal["ran", "cached", "unchanged", "failed"]

# Every process of a flow run carries it, so that the next run finds what a killed one left behind.
MARK = "PLUMBLINE_WORKSPACE"
OFFLINE = {
    flag: "1" for flag in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
}
SHARDS = "data/shards/rows"
LIGHT_SLOTS = 2  # stages without `training` that may run side by side
_BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
SECONDS_TO_DIE = 10.0


@dataclass(frozen=True)
class Step:
    """A stage of dvc.yaml and what the flow has to know of it."""

    name: str  # DVC's address: `align`, or `reward@0` for a member
    upstream: tuple[str, ...]
    changed: bool  # it, or something upstream of it, differs from dvc.lock
    forced: bool  # run it although nothing changed
    training: bool  # it takes the one training slot, and with it every core
    deadline: float | None  # seconds


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


def plan(root: Path, *, from_stage: str | None = None, force: bool = False) -> list[Step]:
    """Every stage in an order that respects the graph, marked where it has to run.

    `from_stage` runs that stage by force (and what follows from it); `force` runs everything by force, or
    everything from `from_stage` on. Raises ValueError for an unknown stage or a broken dvc.yaml.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        # DVC writes the address of a stage relative to the current folder: be where plain names are right.
        with chdir(root), Repo() as repo:
            graph = repo.index.graph
            _restore_sources(repo)
            status = repo.status()
            stages = {node.addressing: node for node in graph.nodes if node.cmd}
            upstream = {
                name: tuple(sorted(up.addressing for up in graph.successors(node) if up.cmd))
                for name, node in stages.items()
            }
            meta = {name: dict(node.meta or {}) for name, node in stages.items()}
    except DvcException as error:
        raise ValueError(f"dvc.yaml: {_one_line(error)}") from None
    if from_stage is not None and from_stage not in stages:
        raise ValueError(f"--from-stage {from_stage}: no such stage; dvc.yaml has {', '.join(sorted(stages))}")
    forced = _forced(upstream, from_stage, force)
    steps: list[Step] = []
    stale: set[str] = set()
    for name in _ordered(upstream):
        if name in status or name in forced or stale.intersection(upstream[name]):
            stale.add(name)
        steps.append(
            Step(
                name=name,
                upstream=upstream[name],
                changed=name in stale,
                forced=name in forced,
                training=bool(meta[name].get("training")),
                deadline=meta[name].get("deadline"),
            )
        )
    return steps


def version_shards(root: Path) -> None:
    """Put accepted shards under DVC's care: data/shards/rows.dvc names them, `dvc push` carries them."""
    from dvc.repo import Repo

    if (root / SHARDS).is_dir():
        with Repo(str(root)) as repo:
            record = root / f"{SHARDS}.dvc"
            if not record.is_file() or repo.status(targets=[str(record)]):
                repo.add([str(root / SHARDS)])


def _ordered(upstream: dict[str, tuple[str, ...]]) -> list[str]:
    """Topological, and stable: of the stages that are ready, dvc.yaml's names in order."""
    done: list[str] = []
    while len(done) < len(upstream):
        ready = [name for name in upstream if name not in done and set(upstream[name]) <= set(done)]
        done.extend(sorted(ready))
    return done


def _forced(upstream: dict[str, tuple[str, ...]], from_stage: str | None, force: bool) -> set[str]:
    if from_stage is None:
        return set(upstream) if force else set()
    forced = {from_stage}
    if force:
        for name in _ordered(upstream):
            if forced.intersection(upstream[name]):
                forced.add(name)
    return forced


def _restore_sources(repo: Any) -> None:
    """Bring back what is versioned as data (*.dvc files) and missing here; changed data is an error."""
    for source in (node for node in repo.index.graph.nodes if not node.cmd):
        state = repo.status(targets=[source.addressing])
        problems = {problem for change in state.values() for problem in _leaves(change)}
        if "deleted" in problems:
            from dvc.exceptions import CheckoutError

            try:
                repo.checkout(targets=[source.addressing], force=True)
            except CheckoutError:
                raise ValueError(
                    f"{source.addressing}: its data is neither here nor in the DVC cache; fetch it with "
                    f"`dvc pull {source.addressing}`"
                ) from None
        elif problems:
            raise ValueError(
                f"{source.addressing}: its data was changed after it was versioned; take the change in with "
                f"`dvc commit {source.addressing}` or undo it with `dvc checkout --force {source.addressing}`"
            )


def _leaves(change: Any) -> Iterator[str]:
    if isinstance(change, str):
        yield change
    elif isinstance(change, dict):
        for part in change.values():
            yield from _leaves(part)
    elif isinstance(change, list):
        for part in change:
            yield from _leaves(part)


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
    training: WarmProcess

    def addresses(self, step: Step) -> dict[str, str]:
        """Variables for the `dvc` of a step."""
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
        with self._lock:
            self._stopped = True
            groups = list(self._groups.values())
        for process in groups:
            end_group(process)


_warm: dict[Path, Warm] = {}  # this process's warm processes, by workspace


@contextmanager
def warmed(root: Path, steps: Sequence[Step]) -> Iterator[Warm | None]:
    """Processes to fork the stages of `steps` from, where enough of them train to be worth it.

    Inside another such block for the workspace they are that block's.
    """
    training = [step for step in steps if step.changed and step.training]
    if root in _warm or len(training) < 2 or not (root / "tasks/adapters/warm.py").is_file():
        yield _warm.get(root)
        return
    variables = environment(root, training[0])
    variables |= stage.threads_environment(variables["PLUMBLINE_THREADS"])
    with WarmProcess(variables, warm.LIGHT) as light, WarmProcess(variables, warm.TRAINING) as heavy:
        light.start()
        _warm[root] = Warm(light, heavy)
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


def input_hash(root: Path, name: str) -> str:
    """sha256 over what a stage is about to compute from: command, parameters, hashes of its dependencies.

    Two executions with the same value compute the same thing, so one may go on where the other was stopped.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        with at_rest(root):
            found = next(each for each in repo.index.stages if getattr(each, "name", None) == name)
        found.save_deps(allow_missing=True)
        described = [found.cmd, [[dep.def_path, dep.hash_info.value] for dep in found.deps]]
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def at_rest(root: Path) -> Iterator[None]:
    """Hold DVC's own lock: inside, no `dvc` is half-way through rewriting dvc.lock, which it does in place."""
    path = root / ".dvc/tmp/lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits; a waiting `dvc` (--wait-for-lock) has its turn afterwards
        yield


def read_lock(root: Path) -> dict[str, Any]:
    """dvc.lock as a mapping; empty stages where nothing has run yet. Raises ValueError for a torn file."""
    path = root / "dvc.lock"
    with at_rest(root):
        text = path.read_text(encoding="utf-8") if path.is_file() else "stages: {}"
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("stages"), dict):
        raise ValueError(f"{path}: torn or empty; delete it, and what is in DVC's cache will be found again")
    return document


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
