"""How the one Prefect task is submitted and ended."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import steps
from tasks.adapters import execution
from tasks.adapters.graph import Step


def test_prepared_data_is_checked_before_training_and_once_it_is_right_not_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    outcomes = [ValueError("no such domain"), None]

    def check(root: Path) -> None:
        assert root == tmp_path
        if error := outcomes.pop(0):
            raise error

    monkeypatch.setattr(steps.versions, "check", lambda space: None)
    monkeypatch.setattr(steps.prepared, "check", check)
    run: Any = SimpleNamespace(space=SimpleNamespace(root=tmp_path), _is_data_checked=False)
    with pytest.raises(ValueError, match="no such domain"):
        steps.Run.check_data(run)
    steps.Run.check_data(run)
    steps.Run.check_data(run)
    assert not outcomes


def test_an_interrupted_wait_ends_the_stages_before_anything_else(tmp_path: Path, monkeypatch: Any) -> None:
    """Of two signals on end the second is raised at the first line of Run.__exit__, which then ends nothing."""

    class Interrupted:
        def wait(self) -> None:
            raise KeyboardInterrupt

    running = execution.Running()
    run: Any = SimpleNamespace(space=SimpleNamespace(root=tmp_path), running=running)
    monkeypatch.setattr(steps.run_stage, "submit", lambda *arguments, **options: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        steps.Run.stages(run, [Step("sft", (), True, False, True, None)])
    assert running.stopped
