"""Runs of the main job as a user starts them, against one Prefect server for the whole session."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Retrain = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """prefect_database(home): give it an empty database of Prefect, which takes a server ten seconds to make.

    Made once for all workers, as `make` does it for a project.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect_database"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            quiet = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
            quiet |= {"PYTHONPATH": str(Path(__file__).parents[2])}
            subprocess.run([sys.executable, "-m", "flows.server"], cwd=folder, env=quiet, check=True)
            (folder / "made").touch()

    def copy(home: Path) -> None:
        (home / ".prefect").mkdir(exist_ok=True)
        for file in (folder / ".prefect").glob("prefect.db*"):
            shutil.copy(file, home / ".prefect")

    return copy


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Callable[[Path], None]) -> Iterator[str]:
    """The API address of a real Prefect server."""
    from flows.server import complete as start

    before, home = dict(os.environ), tmp_path_factory.mktemp("prefect")
    prefect_database(home)
    with start(home) as address:
        os.environ.clear()
        os.environ.update(before)
        yield address


@pytest.fixture
def retrain(server: str) -> Retrain:
    """retrain("--force", ...): run the main job in the current folder; its output and exit status."""

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flows.retrain", *arguments],
            env={**os.environ, "PREFECT_API_URL": server, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


class Mlflow:
    """What stands in the MLflow store of a project."""

    def __init__(self, root: Path) -> None:
        from tasks.adapters.tracking import Store

        self.client = Store.of(root).client()

    def runs(self, **tags: str) -> list[Any]:
        experiment = self.client.get_experiment_by_name("plumbline").experiment_id
        query = " and ".join(f"tags.`{key.replace('__', '.')}` = '{value}'" for key, value in tags.items())
        return list(self.client.search_runs([experiment], query))

    def stage_runs(self) -> list[Any]:
        return [run for run in self.runs() if "dvc.stage" in run.data.tags]

    def flow_runs(self) -> list[Any]:
        return [run for run in self.runs() if "dvc.stage" not in run.data.tags]

    def steps(self, run: Any, key: str) -> list[int]:
        return [metric.step for metric in self.client.get_metric_history(run.info.run_id, key)]

    def versions(self, name: str = "policy") -> list[Any]:
        return sorted(self.client.search_model_versions(f"name='{name}'"), key=lambda each: int(each.version))

    def alias(self, alias: str, name: str = "policy") -> str | None:
        from tasks.adapters import registry

        return registry.aliased(self.client, name, alias)


@pytest.fixture
def store() -> Callable[[Path], Mlflow]:
    return Mlflow
