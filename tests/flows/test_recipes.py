"""Recipes run in a workspace of their own; versions can be made again from their record."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import reproduce
from tasks.adapters import git, workspace

Edit = Callable[..., None]
Executed = Callable[[], list[str]]
Retrain = Callable[..., Any]
Store = Callable[[Path], Any]


@pytest.fixture
def recipe(toy_with_model: Path) -> Path:
    """The toy with a recipe `small` that asks for data."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["ingest"]["sources"] = [{"kind": "file", "path": "${DATA}"}]
    Path("infra/recipes").mkdir(parents=True)
    Path("infra/recipes/small.yaml").write_text(yaml.safe_dump(params))
    Path("given.jsonl").write_text("{}\n")
    return toy_with_model


def tracked(root: Path) -> dict[str, bytes]:
    return {
        path: (root / path).read_bytes() for path in git.git(root, "ls-files").splitlines() if (root / path).is_file()
    }


def test_a_workspace_is_a_clone_with_the_recipes_params_and_the_given_data(recipe: Path, edit: Edit) -> None:
    edit("align", steps=7)  # uncommitted, in params.yaml: not the recipe's
    (recipe / "stages.py").write_text((recipe / "stages.py").read_text() + "# uncommitted\n")
    before = tracked(recipe)
    space = workspace.open_workspace(Path(), "small", Path("given.jsonl"))
    assert space.root == recipe / "data/workspaces/small"
    assert space.home == recipe
    params = yaml.safe_load((space.root / "params.yaml").read_text())
    assert params["ingest"]["sources"] == [{"kind": "file", "path": "given.jsonl"}]
    assert params["align"] == {"steps": 3}
    assert (space.root / "data/inputs/given.jsonl").read_text() == "{}\n"
    assert (space.root / "stages.py").read_text().endswith("# uncommitted\n")
    assert (recipe / ".dvc/cache").as_posix() in (space.root / ".dvc/config.local").read_text()
    assert tracked(recipe) == before
    assert not (recipe / "dvc.lock").exists()

    (recipe / "new.py").write_text("")
    (recipe / "stages.py").unlink()
    (space.root / "dvc.lock").write_text("kept")
    again = workspace.open_workspace(Path(), "small", Path("given.jsonl"))
    assert (again.root / "new.py").exists()
    assert not (again.root / "stages.py").exists()
    assert (again.root / "dvc.lock").read_text() == "kept"


def test_a_recipe_says_what_it_needs(recipe: Path) -> None:
    with pytest.raises(ValueError, match="--recipe small: give its data with --data PATH"):
        workspace.open_workspace(Path(), "small")
    with pytest.raises(FileNotFoundError, match="--data absent: no such file"):
        workspace.open_workspace(Path(), "small", Path("absent"))
    (recipe / "infra/recipes/plain.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match="--recipe plain: it takes no --data"):
        workspace.open_workspace(Path(), "plain", Path("given.jsonl"))


def test_a_recipe_runs_registers_under_its_name_and_is_reproduced(
    recipe: Path, retrain: Retrain, store: Store, executed: Executed, capsys: pytest.CaptureFixture[str]
) -> None:
    done = retrain("--recipe", "small", "--data", "given.jsonl")
    assert done.returncode == 0, done.stderr
    assert executed() == []  # nothing ran in the project itself
    assert not Path("dvc.lock").exists()
    (version,) = store(recipe).versions("policy-small")
    assert version.tags["workspace"] == "small"
    summary = json.loads(Path("data/workspaces/small/data/reports/summary.json").read_text())
    assert summary["registration"]["model"] == "policy-small"
    again = retrain("--recipe", "small", "--data", "given.jsonl")
    assert "nothing changed" in again.stdout

    assert reproduce.main(["1", "--recipe", "small"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"{version.tags['policy.md5']} (recorded {version.tags['policy.md5']})") == 2
    log = Path("data/workspaces/reproduce-small-1/executed.log").read_text().split()
    assert "align" in log
    assert "evaluate" not in log
    assert reproduce.main(["7", "--recipe", "small"]) == 2


def test_another_result_is_said_to_be_another(recipe: Path, retrain: Retrain, store: Store) -> None:
    assert retrain().returncode == 0
    store(recipe).client.set_model_version_tag("policy", "1", "policy.md5", "0" * 32)
    assert reproduce.main(["1", "--restore-only"]) == 1
