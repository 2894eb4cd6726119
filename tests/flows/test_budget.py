"""A run that would exceed its budget is refused in one line; the budget is nobody's parameter but the flow's."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import budget, costs, parameters
from tasks.adapters.graph import Step
from tasks.rlhf.hardware import cpu

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project's graph and parameters with nothing built, on a machine of one core."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(costs, "hardware", lambda name: (cpu(1, 8e9), True))
    return tmp_path


def limit(root, **limits):
    document = yaml.safe_load((root / "params.yaml").read_text())
    document["budget"] |= limits
    (root / "params.yaml").write_text(yaml.safe_dump(document))


def test_without_limits_nothing_is_estimated(project, monkeypatch):
    monkeypatch.setattr(costs, "hardware", None)
    budget.check(project, ["sft", "align"])


def test_hours_count_for_the_stages_that_run(project):
    plan = costs.Plan(project / "params.yaml", project / "data", cpu(1, 8e9), True)
    hours = {work.stage: plan.seconds(work) / 3600 for work in plan.works}
    limit(project, max_hours=hours["align"] * 1.01)
    budget.check(project, ["align", "gate"])
    budget.check(project, ["report"])
    with pytest.raises(ValueError, match=r"params.yaml: budget.max_hours = ") as caught:
        budget.check(project, ["sft", "align"])
    total = hours["sft"] + hours["align"]
    assert f"estimated to take {total:.3g} h on cpu, {hours['sft']:.3g} h of them for sft" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_memory_is_that_of_the_fullest_stage(project):
    limit(project, max_memory_gb=1.0)
    budget.check(project, ["sft", "align"])
    limit(project, max_memory_gb=0.4)
    message = (
        r"budget.max_memory_gb = 0.4: this run is estimated to take 0\.\d+ GB on cpu, for align; nothing was trained"
    )
    with pytest.raises(ValueError, match=message):
        budget.check(project, ["sft", "align"])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_minutes": 3}, r"params.yaml: budget.max_minutes = 3: unknown key"),
        ({"max_hours": 0}, r"params.yaml: budget.max_hours = 0: Input should be greater than 0"),
    ],
)
def test_a_wrong_budget_is_named(project, limits, message):
    limit(project, **limits)
    with pytest.raises(ValueError, match=message):
        parameters.check(project)


def test_no_stage_depends_on_the_budget():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    named = [key for stage in stages.values() for key in stage.get("params", [])]
    assert named
    assert not any(re.match(r"budget\b", key) for key in named)


def test_the_main_job_asks_before_it_runs(tmp_path):
    """The process that the main job starts, in a copy of the project."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("flows", "tasks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    limit(tmp_path, max_hours=1e-6)
    step = Step("sft", (), changed=True, forced=False, training=True, deadline=None)
    with pytest.raises(ValueError, match=r"budget.max_hours = 1e-06: .* of them for sft; nothing was trained"):
        parameters.checked(tmp_path, [step], None)
    done = subprocess.run([sys.executable, "-m", "flows.parameters"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # nothing has to run, nothing is refused
