"""Live progress of a stage: a line now and then with step, loss and time left, read from its telemetry."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tasks.adapters.delivery import read_lines

_POLL = 0.5
_TELLING = ("loss", "accuracy", "margin", "reward", "score", "kl", "tokens_per_second")  # shown where there are
_EVERY = 5.0  # seconds between two lines of one stage


class Progress:
    """Follows data/runs/<stage>/telemetry.jsonl while the stage runs; a context manager."""

    def __init__(self, root: Path, name: str, say: Callable[[str], None]) -> None:
        self._path = root / "data/runs" / name / "telemetry.jsonl"
        self._name, self._say = name, say
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._say(f"{self._name}: running")
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"progress-{self._name}")
        self._thread.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self) -> None:
        cursor, first, last_said = 0, None, time.monotonic()
        newest: dict[str, float] = {}
        while not self._stop.wait(_POLL):
            lines, cursor = read_lines(self._path, cursor)
            if not lines:
                continue
            first = first or lines[0]
            for line in lines:
                newest.update(line["metrics"])
            if time.monotonic() - last_said >= _EVERY:
                last_said = time.monotonic()
                self._say(f"{self._name}: {describe(first, lines[-1], newest)}")


def describe(first: dict[str, Any], last: dict[str, Any], metrics: dict[str, float]) -> str:
    """`step 12/30, loss 0.51, 0:40 left` from the first and the last telemetry line and the newest metrics."""
    words = [f"step {last['step']}/{last['of']}"]
    words += [f"{key} {metrics[key]:.4g}" for key in _TELLING if key in metrics]
    steps = last["step"] - first["step"]
    if steps > 0:
        left = (last["seconds"] - first["seconds"]) / steps * (last["of"] - last["step"])
        words.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
    return ", ".join(words)
