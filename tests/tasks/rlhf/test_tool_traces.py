"""What replies called: figures by hand, and a file that tells each step once, however often a run was interrupted."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.rlhf import tool_traces
from tasks.rlhf.checkpoint import Checkpoints
from tasks.rlhf.tool_traces import Traces
from tasks.rlhf.train_on_rollouts import train_on_rollouts
from tests.tasks.rlhf.test_checkpoint import Interrupted, Tracker
from tests.tasks.rlhf.test_tool_use import calling_learner
from tests.tasks.rlhf.test_train_on_rollouts import PROMPTS


def trace(*ok):
    return {"prompt": "p", "reply": "r", "calls": [{"tool": "calculator", "ok": each} for each in ok]}


def test_figures_by_hand():
    traces = [trace(), trace(True, False), trace(True), trace()]
    found = tool_traces.figures(traces, np.array([1.0, 3.0, np.nan, 2.0]))
    assert found == pytest.approx(
        {"calls": 0.75, "called": 0.5, "calls_ok": 2 / 3, "score_with_calls": 3.0, "score_without_calls": 1.5}
    )
    assert tool_traces.figures([trace()], np.array([1.0])) == {"calls": 0, "called": 0, "score_without_calls": 1}
    unscored = tool_traces.figures([trace(False)], np.array([np.nan]))
    assert unscored == {"calls": 1, "called": 1, "calls_ok": 0}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def run(tiny_model, tmp_path):
    """Runs of five steps, or up to the logging of one, with a checkpoint every second step; what they traced."""

    class EverySecond(Checkpoints):
        def save(self, step, parts):
            if step % 2 == 0:
                super().save(step, parts)

    def train(name, at=0):
        torch.manual_seed(0)
        algorithm, ready = calling_learner(tiny_model, "grpo", num_steps=5, held_out_every=2)
        path = tmp_path / name / "traces.jsonl"
        tracker = Tracker("align", tmp_path / name, EverySecond(tmp_path / name / "kept", lambda: "k"))
        tracker.at = at
        with contextlib.closing(tracker):
            ready = replace(ready, traces=Traces(path))
            train_on_rollouts(ready, PROMPTS, PROMPTS, algorithm.options, 0, tracker)
        tracker.checkpoints.clear()
        return path, tracker.curve

    return train


def test_a_run_with_interruptions_tells_what_one_without_tells(run):
    """Interrupted at step 1, with nothing kept, and at 4, two steps after a checkpoint."""
    path, curve = run("whole")
    expected = lines(path)
    assert {(line["step"], line["fold"]) for line in expected} == {
        *((step, "train") for step in range(1, 6)),
        *((step, "dev") for step in (2, 4)),
    }
    assert all(line["calls"] for line in expected)
    for at in (1, 4):
        with pytest.raises(Interrupted):
            run("kept", at)
        assert lines(path.parents[1] / "kept/traces.jsonl")[-1]["step"] == at
    with (path.parents[1] / "kept/traces.jsonl").open("a") as file:
        file.write('{"step": 4, "fold": "tr')  # as a kill in the middle of a line leaves it
    again, same_curve = run("kept")
    assert lines(again) == expected
    assert same_curve == curve


def test_a_fresh_run_forgets_the_one_before(run):
    path, _ = run("whole")
    expected = lines(path)
    assert lines(run("whole")[0]) == expected
    Traces(path).start(0)  # a run whose replies call nothing
    assert not path.exists()


def test_lines_carry_what_the_curve_sums_up(run):
    path, curve = run("whole")
    for step, row in curve.items():
        found = [line for line in lines(path) if (line["step"], line["fold"]) == (step, "train")]
        assert row["called"] == len(found) / 32
        assert row["calls"] == sum(len(line["calls"]) for line in found) / 32
        assert row["score_with_calls"] == pytest.approx(np.mean([line["score"] for line in found]))


@pytest.mark.parametrize(
    ("tool", "result", "ok"),
    [
        ("calculator", "5", True),
        ("calculator", "error: division by zero", False),
        ("python", "errors: none", True),
        ("python", "error", False),
        ("search", "[p] nothing found here", True),
        ("search", "nothing found", False),
    ],
)
def test_a_call_fails_by_its_tools_own_word(tool, result, ok):
    from tasks.rlhf.tool_use import TOOLS

    assert TOOLS[tool].failed(result) is not ok
