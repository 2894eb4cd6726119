"""MLflow tracking: what a flow run and its stages did, delivered exactly once.

Everything is first written to a journal, `data/journal/<run>/`: one entry for the flow run, one per stage that
executes. `ship` delivers entries to MLflow and may be called at any time, again after a crash too. While the
server is away the journal waits and training goes on; the next run delivers it.
"""

import fcntl
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.adapters.stage import write_json

EXPERIMENT = "plumbline"
_ENTRY_TAG = "plumbline.entry"
# MLflow reads these when it is first imported, so they stand here.
for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("MLFLOW_LOGGING_LEVEL", "WARNING"),
    ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    # A dead server must not hold up the run for the minutes of MLflow's own patience.
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
):
    os.environ.setdefault(_name, _value)
_BATCH = 500  # metrics in one call; MLflow allows 1000


class TrackingError(Exception):
    """The tracking store cannot be reached; the message says which and why."""


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps runs: MLFLOW_TRACKING_URI, or a sqlite file and a folder in the project."""

    uri: str
    artifacts: str | None  # None: the server decides
    lock: Path

    @classmethod
    def of(cls, home: Path) -> "Store":
        home = home.resolve()
        lock = home / "data/.lock/mlflow"
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            return cls(uri, None, lock)
        return cls(f"sqlite:///{home}/mlflow.db", (home / "mlartifacts").as_uri(), lock)

    def client(self) -> Any:
        """An MLflow client. The first contact creates the schema, under a lock: two at once would crash.

        Raises TrackingError when the store does not answer.
        """
        import mlflow

        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as file, reachable(self.uri):
            fcntl.flock(file, fcntl.LOCK_EX)
            self._create()
            mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient(tracking_uri=self.uri)
            if client.get_experiment_by_name(EXPERIMENT) is None:
                client.create_experiment(EXPERIMENT, artifact_location=self.artifacts)
        return client

    def _create(self) -> None:
        """A new sqlite file gets its schema under another name: a kill halfway would leave one beyond repair."""
        import mlflow

        if not self.uri.startswith("sqlite:///"):
            return
        path = Path(self.uri.removeprefix("sqlite:///"))
        for left in path.parent.glob(f"{path.name}.new-*"):
            left.unlink()
        if not path.exists():
            fresh = path.with_name(f"{path.name}.new-{os.getpid()}")
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments()
            fresh.replace(path)


@contextmanager
def reachable(uri: str) -> Iterator[None]:
    """Turn what MLflow raises for an absent or refusing server into TrackingError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TrackingError(f"tracking store {uri}: {reason}") from error


def stage_hash(lock: Mapping[str, Any], name: str) -> str:
    """sha256 of the canonical JSON of a stage's dvc.lock entry: command, inputs, parameters and outputs."""
    import hashlib

    entry = json.dumps(lock["stages"][name], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(entry.encode()).hexdigest()


class Entry:
    """One MLflow run to be: a folder with `run.json`, and for a stage its telemetry and its report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()  # the flow's threads and the delivery write it
        self.document: dict[str, Any] = {}
        if (folder / "run.json").is_file():
            self.document = json.loads((folder / "run.json").read_text(encoding="utf-8"))

    def update(self, **changes: Any) -> None:
        with self._lock:
            self.document.update(changes)
            write_json(self.folder / "run.json", self.document)

    def tag(self, **tags: str) -> None:
        with self._lock:
            self.update(tags={**self.document.get("tags", {}), **tags})

    def link(self, name: str, of_stage: str) -> None:
        with self._lock:
            self.update(links={**self.document.get("links", {}), name: of_stage})

    @property
    def run_id(self) -> str | None:
        value = self.document.get("run_id")
        return str(value) if value else None


class Journal:
    """The journal of one flow run. `ship` is thread-safe; everything else belongs to the flow."""

    def __init__(self, root: Path, store: Store, folder: Path) -> None:
        self.root, self.store, self.folder = root, store, folder
        self.parent = Entry(folder)
        self.entries: dict[str, Entry] = {
            path.parent.name: Entry(path.parent) for path in sorted(folder.glob("stages/*/run.json"))
        }
        self.problem: str | None = None  # why the last delivery failed
        self._client: Any = None
        self._lock = threading.Lock()
        self._shipped: dict[str, set[tuple[str, int]]] = {}
        self._cursor: dict[str, int] = {}

    @classmethod
    def begin(cls, root: Path, store: Store, name: str, tags: Mapping[str, str]) -> "Journal":
        folder = root / "data/journal" / f"{time.time_ns()}"
        journal = cls(root, store, folder)
        journal.parent.update(entry=uuid.uuid4().hex, name=name, tags=dict(tags), started=time.time(), status="RUNNING")
        return journal

    @classmethod
    def leftovers(cls, root: Path, store: Store) -> list["Journal"]:
        """Journals of earlier runs that were not delivered, oldest first; what still "runs" was killed."""
        found = [cls(root, store, path.parent) for path in sorted(root.glob("data/journal/*/run.json"))]
        for journal in found:
            for name, entry in journal.entries.items():
                if entry.document["status"] == "RUNNING":
                    journal.end_stage(name, "KILLED")
            if journal.parent.document["status"] == "RUNNING":
                journal.end("KILLED")
        return found

    def begin_stage(self, name: str, inputs: str) -> None:
        """A stage executes. One that was interrupted with the same inputs goes on in its old MLflow run."""
        pointer = self.root / "data/runs" / name / "tracking.json"
        last = json.loads(pointer.read_text(encoding="utf-8")) if pointer.is_file() else {}
        resumed = last.get("inputs") == inputs and not last.get("finished")
        identity = last["entry"] if resumed else uuid.uuid4().hex
        write_json(pointer, {"entry": identity, "inputs": inputs, "finished": False})
        entry = Entry(self.folder / "stages" / name)
        entry.update(
            entry=identity,
            name=name,
            tags={**self.parent.document["tags"], "dvc.stage": name},
            started=time.time(),
            status="RUNNING",
        )
        self.entries[name] = entry

    def end_stage(self, name: str, status: str, lock: Mapping[str, Any] | None = None) -> None:
        """Keep what the stage left behind, since its next execution overwrites it. `status` as in MLflow."""
        entry = self.entries[name]
        runs = self.root / "data/runs" / name
        for source in (runs / "telemetry.jsonl", self.root / "data/reports" / f"{name}.json", runs / "sidecar.json"):
            kept = entry.folder / ("report.json" if source.parent.name == "reports" else source.name)
            if source.is_file() and (status == "FINISHED" or source.suffix == ".jsonl"):
                shutil.copyfile(source, kept)
        if status == "FINISHED":
            pointer = runs / "tracking.json"
            write_json(pointer, {**json.loads(pointer.read_text(encoding="utf-8")), "finished": True})
        if lock is not None:
            entry.tag(**{"dvc.stage_hash": stage_hash(lock, name)})
        entry.update(status=status, ended=time.time())

    def link(self, name: str, lock: Mapping[str, Any]) -> None:
        """Note that a stage was not executed: its run is the one that made its outputs."""
        self.parent.link(name, stage_hash(lock, name))

    def attach(self, path: Path) -> None:
        """Keep a file or folder as an artifact of the flow run."""
        target = self.folder / "artifacts" / path.name
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        elif path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def end(self, status: str, lock: Mapping[str, Any] | None = None) -> None:
        inputs = _datasets(lock) if lock else []
        self.parent.update(status=status, ended=time.time(), inputs=inputs)

    def ship(self) -> bool:
        """Deliver what is there. False, with the reason in `problem`, when the store does not answer."""
        with self._lock:
            try:
                with reachable(self.store.uri):
                    self._ship()
            except TrackingError as error:
                self.problem = str(error)
                self._shipped.clear()  # what of it arrived is asked again
                self._cursor.clear()
                return False
            self.problem = None
            return True

    def clear(self) -> None:
        """Forget the journal, once everything in it is delivered and ended."""
        if self.problem is None and self.parent.document["status"] != "RUNNING":
            shutil.rmtree(self.folder, ignore_errors=True)

    def _ship(self) -> None:
        if self._client is None:
            self._client = self.store.client()
        parent_id = self._run_of(self.parent, None)
        for name, entry in list(self.entries.items()):
            if entry.document.get("delivered"):
                continue
            run_id = self._run_of(entry, parent_id)
            self._ship_telemetry(name, entry, run_id)
            if entry.document["status"] != "RUNNING":
                self._ship_report(entry, run_id)
                self._close(entry, run_id)
        if self.parent.document["status"] != "RUNNING" and not self.parent.document.get("delivered"):
            self._ship_parent(parent_id)
            self._close(self.parent, parent_id)

    def _run_of(self, entry: Entry, parent_id: str | None) -> str:
        """The MLflow run of an entry, created if it does not exist; found again after a crash by its tag."""
        if entry.run_id is not None:
            return entry.run_id
        experiment = self._client.get_experiment_by_name(EXPERIMENT).experiment_id
        found = self._client.search_runs(
            [experiment], f"tags.`{_ENTRY_TAG}` = '{entry.document['entry']}'", max_results=1
        )
        tags = {**entry.document["tags"], _ENTRY_TAG: entry.document["entry"]}
        if parent_id is not None:
            tags["mlflow.parentRunId"] = parent_id
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)
        else:
            run_id = self._client.create_run(
                experiment,
                start_time=int(entry.document["started"] * 1000),
                tags=tags,
                run_name=entry.document["name"],
            ).info.run_id
        entry.update(run_id=run_id)
        return str(run_id)

    def _ship_telemetry(self, name: str, entry: Entry, run_id: str) -> None:
        """New telemetry lines as metrics; a (step, metric) that the run already has is left out."""
        from mlflow.entities import Metric

        path = entry.folder / "telemetry.jsonl"
        if not path.is_file():
            path = self.root / "data/runs" / name / "telemetry.jsonl"
        lines, cursor = read_lines(path, self._cursor.get(name, 0))
        fresh: list[Metric] = []
        for line in lines:
            for key, value in line["metrics"].items():
                key = legal_name(key)
                if (key, line["step"]) not in self._seen(run_id, key):
                    self._shipped[run_id].add((key, line["step"]))
                    fresh.append(Metric(key, value, int(line["time"] * 1000), line["step"]))
        for start in range(0, len(fresh), _BATCH):
            self._client.log_batch(run_id, metrics=fresh[start : start + _BATCH])
        self._cursor[name] = cursor

    def _seen(self, run_id: str, key: str) -> set[tuple[str, int]]:
        seen = self._shipped.setdefault(run_id, set())
        if (key, -1) not in seen:  # asked once per metric and run
            seen.add((key, -1))
            seen.update((key, metric.step) for metric in self._client.get_metric_history(run_id, key))
        return seen

    def _ship_report(self, entry: Entry, run_id: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics: dict[str, float] = {}
        params: dict[str, str] = {}
        report, sidecar = entry.folder / "report.json", entry.folder / "sidecar.json"
        if report.is_file():
            document = json.loads(report.read_text(encoding="utf-8"))
            metrics |= dict(flatten(document.get("metrics") or {}))
            params = {legal_name(key): value for key, value in _params(document.get("params") or {})}
            self._client.log_artifact(run_id, str(report))
        if sidecar.is_file():
            document = json.loads(sidecar.read_text(encoding="utf-8"))
            metrics |= dict(flatten({"stage": document}))
        now = int(entry.document["ended"] * 1000)
        self._client.log_batch(
            run_id,
            metrics=[Metric(legal_name(key), value, now, 0) for key, value in metrics.items()],
            params=[Param(key, value) for key, value in list(params.items())[:100]],
            tags=[RunTag(key, value) for key, value in entry.document["tags"].items()],
        )

    def _ship_parent(self, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, RunTag

        tags = {**self.parent.document["tags"], **self._links()}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        datasets = [
            DatasetInput(Dataset(name=item["name"], digest=item["digest"], source_type="dvc", source=item["source"]))
            for item in self.parent.document.get("inputs", [])
        ]
        if datasets:
            self._client.log_inputs(run_id, datasets)
        if (self.folder / "artifacts").is_dir():
            self._client.log_artifacts(run_id, str(self.folder / "artifacts"))

    def _links(self) -> dict[str, str]:
        """`run.<stage>`: the run that made the outputs of a stage that this flow run did not execute."""
        experiment = self._client.get_experiment_by_name(EXPERIMENT).experiment_id
        links = {}
        for name, wanted in self.parent.document.get("links", {}).items():
            found = self._client.search_runs([experiment], f"tags.`dvc.stage_hash` = '{wanted}'", max_results=1)
            links[legal_name(f"run.{name}")] = found[0].info.run_id if found else "unknown (made outside this store)"
        return links

    def _close(self, entry: Entry, run_id: str) -> None:
        self._client.set_terminated(run_id, entry.document["status"], int(entry.document["ended"] * 1000))
        entry.update(delivered=True)


def read_lines(path: Path, cursor: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole JSON lines of a growing file from byte `cursor` on, and the cursor for the next call."""
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < cursor:  # it was started anew
            cursor = 0
        file.seek(cursor)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    lines = [json.loads(line) for line in whole.splitlines() if line.strip()]
    return lines, cursor + len(whole)


def flatten(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested report as dotted names; an estimate is its value, with `.low`, `.high` and `.n` beside."""
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if {"value", "n", "low", "high"} <= set(value):
                rest = {part: value[part] for part in ("low", "high", "n")}
                yield from flatten({key: value["value"], **{f"{key}.{part}": rest[part] for part in rest}}, prefix)
            else:
                yield from flatten(value, f"{name}.")
        elif isinstance(value, bool | int | float):
            yield name, float(value)


def _params(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _params(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)[:500]


def legal_name(name: str) -> str:
    """MLflow's alphabet for names of metrics, parameters and tags."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _datasets(lock: Mapping[str, Any]) -> list[dict[str, str]]:
    """The raw datasets with DVC's own hash: `<32 hex>.dir` is just what MLflow's 36 characters hold."""
    outs: Iterable[Mapping[str, Any]] = (lock.get("stages", {}).get("ingest") or {}).get("outs") or []
    return [
        {"name": Path(out["path"]).name, "digest": out["md5"][:36], "source": json.dumps({"path": out["path"]})}
        for out in outs
        if out["path"].startswith("data/raw/")
    ]
