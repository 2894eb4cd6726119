"""Entries of a journal become runs of MLflow: each once, whatever arrived of it before a crash."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.adapters.tracking import EXPERIMENT, legal_name
from tasks.files import write_json

_ENTRY_TAG = "plumbline.entry"
_BATCH = 500  # metrics in one call; MLflow allows 1000


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


class Delivery:
    """To one store. It remembers what it has sent; a new one asks the store."""

    def __init__(self, root: Path, client: Any) -> None:
        self.root = root
        self._client = client
        self._shipped: dict[str, set[tuple[str, int]]] = {}
        self._cursor: dict[str, int] = {}

    def run(self, parent: Entry, entries: Mapping[str, Entry]) -> None:
        """Deliver what is there of a flow run and of its stages."""
        parent_id = self._run_of(parent, None)
        for name, entry in entries.items():
            if entry.document.get("delivered"):
                continue
            run_id = self._run_of(entry, parent_id)
            self._ship_telemetry(name, entry, run_id)
            if entry.document["status"] != "RUNNING":
                self._ship_report(entry, run_id)
                self._close(entry, run_id)
        if parent.document["status"] != "RUNNING" and not parent.document.get("delivered"):
            self._ship_parent(parent, parent_id)
            self._close(parent, parent_id)

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

    def _ship_parent(self, parent: Entry, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, RunTag

        tags = {**parent.document["tags"], **self._links(parent)}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        datasets = [
            DatasetInput(Dataset(name=item["name"], digest=item["digest"], source_type="dvc", source=item["source"]))
            for item in parent.document.get("inputs", [])
        ]
        if datasets:
            self._client.log_inputs(run_id, datasets)
        if (parent.folder / "artifacts").is_dir():
            self._client.log_artifacts(run_id, str(parent.folder / "artifacts"))

    def _links(self, parent: Entry) -> dict[str, str]:
        """`run.<stage>`: the run that made the outputs of a stage that this flow run did not execute."""
        experiment = self._client.get_experiment_by_name(EXPERIMENT).experiment_id
        links = {}
        for name, wanted in parent.document.get("links", {}).items():
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
