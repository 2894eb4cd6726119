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


def test_holds(clone: Path) -> None:
    found = run(clone, "holds", "--seeds", "1")
    assert found
