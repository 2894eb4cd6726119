"""Replies that could call tools: figures over a rollout's calls, and the file of the replies that called.

A line of data/runs/align/traces.jsonl: `step`; `fold`, train or, for held-out prompts, dev; `prompt` and `reply` as
text; `calls`, each `tool`, `argument`, `result`, `ok`; `score`, before penalties, null where nothing could score it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.rlhf import ranks

Trace = dict[str, Any]  # of one reply: prompt, reply, calls


def figures(traces: Sequence[Trace], scores_B: np.ndarray) -> dict[str, float]:
    """Calls per reply, shares of replies with a call and of calls that succeeded, scores with and without a call.

    What there is none of is left out. Hand-worked: two replies, scores 1 and 3, the second with two calls of which one
    failed: 1 call per reply, 0.5 of the replies, 0.5 of the calls, scores 3 and 1.
    """
    calls = [call for trace in traces for call in trace["calls"]]
    called_B = np.array([bool(trace["calls"]) for trace in traces])
    found = {"calls": len(calls) / len(traces), "called": float(called_B.mean())}
    if calls:
        found["calls_ok"] = float(np.mean([call["ok"] for call in calls]))
    for name, chosen_B in (("score_with_calls", called_B), ("score_without_calls", ~called_B)):
        scores = scores_B[chosen_B & ~np.isnan(scores_B)]
        if len(scores):
            found[name] = float(scores.mean())
    return found


class Traces:
    """The file. It tells each step once, though a run that goes on after a kill does its last steps again."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path nothing is kept."""
        self._path = path
        self._noted: list[Trace] = []

    def start(self, step: int) -> None:
        """Forget what is after `step`, the last that is done: 0 forgets an earlier run."""
        if self._path is None or not ranks.current().is_first:
            return
        if step == 0:
            self._path.unlink(missing_ok=True)
        elif self._path.is_file():
            with self._path.open("rb+") as file:
                size = 0
                for line in file:
                    if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                        break
                    size += len(line)
                file.truncate(size)

    def note(self, traces: Sequence[Trace], scores_B: np.ndarray) -> None:
        if self._path is not None:
            for trace, score in zip(traces, scores_B.tolist(), strict=True):
                if trace["calls"]:
                    self._noted.append(trace | {"score": None if np.isnan(score) else score})

    def write(self, step: int, fold: str) -> None:
        """Append what was noted since the last time."""
        noted, self._noted = self._noted, []
        if noted and self._path is not None and ranks.current().is_first:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, "fold": fold} | trace) + "\n" for trace in noted)


NONE = Traces()
