"""How a stage says how it is going, without needing a server.

`log` takes what is deterministic: it becomes `data/curves/<stage>.csv`, which DVC plots. `measure` takes what
is not (tokens/s, memory). Both are appended to `data/runs/<stage>/telemetry.jsonl`, from where the flow
ships them to MLflow, each (step, metric) once. Both belong to a checkpoint: a run that goes on after a kill
tells the whole story, without a gap and without a step told twice.
"""

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tasks.rlhf import checkpoint


class FileTracker:
    def __init__(
        self, stage: str, data: Path, checkpoints: checkpoint.Checkpoints = checkpoint.NONE, *, writes: bool = True
    ) -> None:
        """Without `writes`, nothing is written: of several processes one tells."""
        self.stage = stage
        self.checkpoints = checkpoints  # for the loops of the stage
        self.curve: dict[int, dict[str, float]] = {}
        self.phases: dict[str, float] = {}
        self._curves = data / "curves"
        self._file: TextIO = _telemetry(data / "runs" / stage) if writes else io.StringIO()
        self._start = time.monotonic()
        self._open: dict[str, float] = {}  # phases that have begun, and when

    def log(self, step: int, total: int, **metrics: float) -> None:
        """Record deterministic metrics of step `step` of `total` (steps count from 1)."""
        self.curve.setdefault(step, {}).update({name: float(value) for name, value in metrics.items()})
        self._append(step, total, metrics)

    def measure(self, step: int, total: int, **metrics: float) -> None:
        """Record what differs from run to run: rates, seconds, memory."""
        self._append(step, total, metrics)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of a part of the stage ("train", "sample", ...) to the sidecar."""
        self._open[name] = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - self._open.pop(name)

    def state_dict(self) -> dict[str, Any]:
        now = time.monotonic()
        self._file.seek(0)
        return {
            "curve": self.curve,
            "phases": self.phases | {name: self.phases.get(name, 0.0) + now - at for name, at in self._open.items()},
            "seconds": now - self._start,
            "telemetry": self._file.read(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.curve, self.phases = dict(state["curve"]), dict(state["phases"])
        self._start = time.monotonic() - state["seconds"]
        self._file.seek(0)
        self._file.truncate()
        self._file.write(state["telemetry"])

    def close(self) -> None:
        self._file.close()

    def write_curve(self) -> None:
        """Write what was logged as the stage's curve; a stage that logged nothing has none."""
        if not self.curve:
            return
        columns = sorted({name for row in self.curve.values() for name in row})
        self._curves.mkdir(parents=True, exist_ok=True)
        with (self._curves / f"{self.stage}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", *columns])
            for step, row in sorted(self.curve.items()):
                writer.writerow([step, *(f"{row[name]:.6g}" if name in row else "" for name in columns)])

    def _append(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        line = {
            "step": step,
            "of": total,
            "time": time.time(),
            "seconds": round(time.monotonic() - self._start, 3),
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        self._file.write(json.dumps(line) + "\n")


def _telemetry(folder: Path) -> TextIO:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "telemetry.jsonl").open("w+", buffering=1)
