"""The benches of `make bench` still run: small, for what they print is what is claimed elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of a small run must not stand where those of a whole one do."""
    folder = tmp_path_factory.mktemp("benches") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def run(clone: Path, name: str, *arguments: str) -> Any:
    command = [sys.executable, f"tests/bench/{name}.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((clone / f"data/bench/{name}.json").read_text())


def test_data(clone: Path) -> None:
    found = run(clone, "data", "--rows", "2000", "--shard", "50", "--obvious", "500")
    assert [size["rows"] for size in found["sizes"]] == [1000, 2000]
    assert found["obvious"][0]["rows_per_second"] > 0
    assert all(size["report"]["accepted"] > 0.9 * size["rows"] for size in found["sizes"])


def test_learning(clone: Path) -> None:
    found = run(clone, "learning", "--only", "sft,grpo", "--runs", "1")
    for algorithm in ("sft", "grpo"):
        assert found[algorithm]["ours"] > 0
        assert found[algorithm]["peer"] > 0
        assert found[algorithm]["peak_memory_mb_peer"] > 100


def test_restraint(clone: Path) -> None:
    found = run(clone, "restraint", "--preferences", "400", "--epochs", "2", "--only", "off,bounded,length_balanced")
    assert found["results"].keys() == {"off", "bounded", "length_balanced"}
    for epochs in found["results"].values():
        assert len(epochs) == 2
        assert epochs[0]["deviation"] != epochs[1]["deviation"]
        for row in epochs:
            value, low, high, n = row["accuracy"]
            assert low <= value <= high
            assert n > 20
            assert 0 < row["log_loss"] < 3


def test_holds(clone: Path) -> None:
    found = run(clone, "holds", "--seeds", "1")
    assert found
