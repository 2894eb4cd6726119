"""The journal of a flow run: what it and its stages did, kept until MLflow has it, delivered exactly once.

Everything is first written to `data/journal/<run>/`: one entry for the flow run, one per stage that executes. `ship`
delivers entries to MLflow and may be called at any time, again after a crash too. While the server is away the journal
waits and training goes on; the next run delivers it.
"""

import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.adapters.delivery import Delivery, Entry
from tasks.adapters.tracking import Store, TrackingError, reachable
from tasks.files import write_json


class Journal:
    """The journal of one flow run. `ship` is thread-safe; everything else belongs to the flow."""

    def __init__(self, root: Path, store: Store, folder: Path) -> None:
        self.root, self.store, self.folder = root, store, folder
        self.parent = Entry(folder)
        self.entries: dict[str, Entry] = {
            path.parent.name: Entry(path.parent) for path in sorted(folder.glob("stages/*/run.json"))
        }
        self.problem: str | None = None  # why the last delivery failed
        self._lock = threading.Lock()
        self._delivery: Delivery | None = None

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
                    if self._delivery is None:
                        self._delivery = Delivery(self.root, self.store.client())
                    self._delivery.run(self.parent, dict(self.entries))
            except TrackingError as error:
                self.problem = str(error)
                self._delivery = None  # what of it arrived is asked again
                return False
            self.problem = None
            return True

    def clear(self) -> None:
        """Forget the journal, once everything in it is delivered and ended."""
        if self.problem is None and self.parent.document["status"] != "RUNNING":
            shutil.rmtree(self.folder, ignore_errors=True)


def stage_hash(lock: Mapping[str, Any], name: str) -> str:
    """sha256 of the canonical JSON of a stage's dvc.lock entry: command, inputs, parameters and outputs."""
    import hashlib

    entry = json.dumps(lock["stages"][name], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(entry.encode()).hexdigest()


def _datasets(lock: Mapping[str, Any]) -> list[dict[str, str]]:
    """The raw datasets with DVC's own hash: `<32 hex>.dir` is just what MLflow's 36 characters hold."""
    outs: Iterable[Mapping[str, Any]] = (lock.get("stages", {}).get("ingest") or {}).get("outs") or []
    return [
        {"name": Path(out["path"]).name, "digest": out["md5"][:36], "source": json.dumps({"path": out["path"]})}
        for out in outs
        if out["path"].startswith("data/raw/")
    ]
