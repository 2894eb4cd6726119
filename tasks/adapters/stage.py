"""The stage runner: `python -m tasks.<stage>` ends here.

Reads params.yaml strictly, holds the stage's lock, calls `run(params, data, tracker)` and writes
`data/reports/<stage>.json` (deterministic, a DVC metric). What changes from run to run (seconds, memory,
device, telemetry, the reason of a failure) goes under `data/runs/<stage>/`, which no stage depends on.
"""

import fcntl
import os
import platform
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.adapters import checkpoints, processes, warm
from tasks.adapters.telemetry import FileTracker
from tasks.files import SafeLoader, write_json
from tasks.hashes import content_hash, remembered

DATA = Path("data")
PARAMS = Path("params.yaml")
# Its top-level keys, in the order in which they stand there. A recipe has the same.
SECTIONS = (
    *("seed", "budget", "world", "model", "folds", "ingest", "fresh", "validate", "prepare", "sft", "collect"),
    *("reward", "judge", "solutions", "align", "evaluate", "gate", "card", "report"),
)

# What a stage's exit status says. `dvc repro` answers 255 for every failed command, so the flow reads it from
# data/runs/<stage>/failure.json.
BAD_INPUT = 2  # params or data that a person has to mend: retrying is useless
BAD_CONTRACT = 4  # the data broke its contract: nothing was trained
HELD = 5  # the data is held until a person has looked: nothing was trained
BUSY = 75  # somebody else holds the stage or the workspace: try again later


QUIET = {  # nothing phones home
    "DO_NOT_TRACK": "true",  # "true" is the one value that Prefect and MLflow both accept
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TRANSFORMERS_VERBOSITY": "error",  # its load reports name the head that we then draw ourselves
}


class ContractError(Exception):
    """The data broke its contract; the message names the expectations."""


class HeldError(Exception):
    """The data is held until a person releases it; the message names hold, value, bound and remedy."""


class BusyError(Exception):
    """A lock is held by a live process; the message names the holder."""


_NAMES_A_KEY = re.compile(r"[a-z_]+( = |: )")
Seed = Annotated[int, Field(ge=0, lt=2**31)]  # what every generator of numbers takes


class Params(BaseModel):
    """Base of every stage's parameters: frozen; an unknown key or a value of the wrong kind is an error.

    A field comes from the stage's own section of params.yaml or, where the section does not hold it, from
    the top-level key of that name (`seed`, `world`, `model`, `folds`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Estimate:
    """A metric with its sample size and its 95% interval."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Stage:
    """What `python -m tasks.<stage>` is: its parameters, its work, and the paths under data/ that it uses."""

    name: str  # also the file, the params section, the report and the DVC stage; a member is `<stage>@<k>`
    params: type[Params]
    run: Callable[[Any, Path, FileTracker], Mapping[str, Any]]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    trains: bool = False  # by a loop that several processes can share (tasks/adapters/processes.py)


def main(stage: Stage) -> None:
    """Run a stage as a process: exit 0, or one clear line on stderr and a non-zero status."""
    name = stage.name
    warm.die_with_parent()
    os.environ |= threads_environment(os.environ.get("PLUMBLINE_THREADS"))
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        if processes.is_rank():
            with processes.joined():
                execute(stage)
        else:
            _start(stage)
    except BusyError as error:
        _fail(name, BUSY, str(error))
    except ContractError as error:
        _fail(name, BAD_CONTRACT, str(error))
    except HeldError as error:
        _fail(name, HELD, str(error))
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        _fail(name, BAD_INPUT, str(error))
    except processes.RankError as error:
        if error.status == processes.CRASHED:
            sys.stderr.write(error.trace)
            sys.exit(_say(f"{name}: {error}", error.status))
        _fail(name, error.status, str(error), error.trace)
    except Exception as error:
        if processes.is_rank():
            _fail(name, processes.CRASHED, f"{type(error).__name__}: {error}")
        raise


def _start(stage: Stage) -> None:
    """Run the stage alone in its workspace: in this process, or in several that this one waits for."""
    runs = DATA / "runs" / stage.name
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "failure.json").unlink(missing_ok=True)
    with lock(DATA / ".lock" / stage.name):
        count = processes.wanted() if stage.trains else 1
        if count == 1:
            execute(stage)
        else:
            processes.run(count, runs / "ranks")


def execute(stage: Stage) -> None:
    """Run the stage in this process, in the current folder, and write its report and sidecar.

    Of several processes the first writes; the others compute the same and keep it to themselves.
    """
    with remembered(DATA / "runs", stage.name, writes=processes.is_first()):
        _execute(stage)


def _execute(stage: Stage) -> None:
    name = stage.name
    params = read_params(stage.params, name.partition("@")[0])
    started = time.time()
    kept = checkpoints.of_stage(name, params, stage.reads, DATA)
    with closing(FileTracker(name, DATA, kept, writes=processes.is_first())) as tracker:
        metrics = stage.run(params, DATA, tracker)
        if not processes.is_first():
            return
        tracker.write_curve()
    rounded = kept.resumed_from is not None and getattr(getattr(params, "model", None), "compile", False)
    if rounded:  # layers were compiled for the shapes that came first, which were others (tasks/rlhf/compiled.py)
        sys.stderr.write(
            f"warning: {name}: went on after step {kept.resumed_from} with model.compile = true: the result is that of "
            "an uninterrupted run but for rounding; set it to false where the bits must be the same\n"
        )
    report = {
        "stage": name,
        "params": params.model_dump(mode="json"),
        "metrics": plain(metrics),
        "inputs": {path: content_hash(DATA / path) for path in stage.reads},
        "outputs": {path: content_hash(DATA / path) for path in stage.writes},
    }
    write_json(DATA / "reports" / f"{name}.json", report)
    sidecar = {
        "stage": name,
        "started": started,
        "seconds": round(time.time() - started, 3),
        "phases": {phase: round(spent, 3) for phase, spent in tracker.phases.items()},
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "cpu_seconds": round(time.process_time(), 3),
        "machine": platform.machine(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "processes": int(os.environ.get("WORLD_SIZE", "1")) if processes.is_rank() else 1,
        "resumed_from_step": kept.resumed_from,
        "resumed_but_for_rounding": rounded,
    }
    write_json(DATA / "runs" / name / "sidecar.json", sidecar)
    kept.clear()


def read_params(params_type: type[Any], section: str, path: Path = PARAMS) -> Any:
    """Read and check one section of params.yaml.

    Raises ValueError with a line per problem: the key, the value, what is wrong with it.
    """
    document = read_yaml(path)
    if unknown := sorted(set(document) - set(SECTIONS)):
        raise ValueError(f"{path}: unknown key `{unknown[0]}`; the top-level keys are {', '.join(SECTIONS)}")
    own = document.get(section) or {}
    if not isinstance(own, Mapping):
        raise ValueError(f"{path}: `{section}` is {own!r}; it must be a mapping of keys")
    shared = {field: document[field] for field in params_type.model_fields if field not in own and field in document}
    try:
        return params_type(**{**shared, **own})
    except ValidationError as error:
        raise ValueError(explain(error, path, section, shared)) from None


def read_part(params_type: type[Any], key: str, path: Path = PARAMS) -> Any:
    """Read and check a part of a section, by its dotted key. Raises ValueError as `read_params` does."""
    part: Any = read_yaml(path)
    for name in key.split("."):
        part = part.get(name) or {}
        if not isinstance(part, Mapping):
            raise ValueError(f"{path}: `{name}` of `{key}` is {part!r}; it must be a mapping of keys")
    try:
        return params_type(**part)
    except ValidationError as error:
        raise ValueError(explain(error, path, key)) from None


def explain(error: ValidationError, path: Path, section: str, shared: Mapping[str, Any] | None = None) -> str:
    """Turn a validation error into one line per problem, each naming the key as it stands in the file."""
    lines = []
    for problem in error.errors(include_url=False):
        keys = [str(part) for part in problem["loc"]]
        if not (shared and keys and keys[0] in shared):
            keys = [section, *keys]
        if problem["type"] == "value_error" and _NAMES_A_KEY.match(said := str(problem["ctx"]["error"])):
            lines.append(f"{path}: {'.'.join(keys)}.{said}")  # of several keys that do not agree
            continue
        value = "" if problem["type"] == "missing" else f" = {problem['input']!r}"
        reason = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{path}: {'.'.join(keys)}{value}: {reason}")
    return "\n".join(lines)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run this from the root of the project") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: must hold keys and values, not {type(document).__name__}")
    return document


class _Loader(SafeLoader):  # type: ignore[misc]
    """Safe YAML in which `1e-3` is a number, as in YAML 1.2 and so for DVC, and a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{key}` stands twice", key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock whose file names the holder; the kernel frees it when the holder dies.

    Raises BusyError, naming the holder's pid, when a live process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "an unknown process"
            raise BusyError(f"{path} is held by {holder}; wait for it or end it, then run again") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield


def plain(value: Any) -> Any:
    """What JSON can say of metrics: numbers with eight digits."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)
    # Eight digits are more than any estimate here means, and keep the report readable.
    return number if number == 0 else float(f"{number:.8g}")


def _fail(name: str, status: int, message: str, trace: str | None = None) -> None:
    runs = DATA / "runs" / name
    if processes.is_rank():
        processes.leave_word(runs / "ranks", status, message)
        sys.exit(status)
    document = {"status": status, "message": message, "traceback": trace or traceback.format_exc()}
    write_json(runs / "failure.json", document)
    sys.exit(_say(f"{name}: {message}", status))


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status


def threads_environment(threads: str | None) -> dict[str, str]:
    """Variables that give a process so many threads (the flow says: cores / slots), else one per core.

    Never the libraries' own choice: sums are split by threads, and the same count gives the same bits with the
    flow and with `dvc repro` alone.
    """
    threads = threads or str(os.cpu_count() or 1)
    names = ("PLUMBLINE_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, threads) | {
        # Threads that wait for each other spin for milliseconds by default; on a core that somebody else uses, too,
        # that made training 5 times slower. This many turns cost 5% on an idle machine, a factor of 2 on a busy one.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
    }
