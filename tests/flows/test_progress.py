"""The line a person follows while a stage runs."""

import json
import time
from pathlib import Path

from flows import progress
from tasks.adapters.delivery import read_lines


def line(step: int, when: float, **metrics: float) -> dict[str, object]:
    return {"step": step, "of": 30, "time": 0.0, "seconds": when, "metrics": metrics}


def test_step_loss_and_time_left() -> None:
    first, last = line(10, 100.0, loss=1.0), line(12, 104.0, peak_memory_mb=5.0)
    # 2 s a step, 18 steps to go
    assert progress.describe(first, last, {"loss": 0.512345, "peak_memory_mb": 5.0}) == (
        "step 12/30, loss 0.5123, 0:36 left"
    )
    assert progress.describe(first, first, {}) == "step 10/30"


def test_lines_are_said_while_the_file_grows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    monkeypatch.setattr(progress, "_POLL", 0.02)
    said: list[str] = []
    path = tmp_path / "data/runs/sft/telemetry.jsonl"
    path.parent.mkdir(parents=True)
    with progress.Progress(tmp_path, "sft", said.append) as following:
        following.start()
        path.write_text(json.dumps(line(1, 1.0, loss=2.0)) + "\n" + '{"step": 2, "torn')
        time.sleep(0.3)
    assert said == ["sft: running", "sft: step 1/30, loss 2"]


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    assert read_lines(path) == ([], 0)
    path.write_text('{"a": 1}\n{"a": ')
    lines, cursor = read_lines(path)
    assert lines == [{"a": 1}]
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert read_lines(path, cursor) == ([{"a": 2}], 18)
    path.write_text('{"a": 3}\n')  # started anew
    assert read_lines(path, 18)[0] == [{"a": 3}]
