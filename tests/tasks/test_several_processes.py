"""The real stages in two processes: the model of one but for rounding, and nothing lost by kill -9."""

import os
import random
import subprocess
import sys

import pytest

from tasks.adapters import processes, stage
from tests.tasks.conftest import ROOT
from tests.tasks.test_pipeline import copy_of, curve, report
from tests.tasks.test_resume import CASES, Workspace, drill

TWO = {processes.COUNT: "2", "CUDA_VISIBLE_DEVICES": ""}


def run(root, *command, **environment):
    environment = {**os.environ, **stage.threads_environment("2"), **TWO, "PYTHONPATH": str(ROOT), **environment}
    subprocess.run([sys.executable, "-m", *command], cwd=root, env=environment, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["0", "1"])
def test_fixed_data_teach_two_what_they_teach_one(built, tmp_path, shard):
    root = copy_of(built, tmp_path)
    run(root, "tasks.sft", **{processes.SHARD: shard})
    run(root, "tasks.reward", "0", **{processes.SHARD: shard})
    for name in ("sft", "reward@0"):
        rows, expected = curve(root, name), curve(built, name)
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-3)
        assert report(root, name)["metrics"].keys() == report(built, name)["metrics"].keys()
        assert (root / f"data/runs/{name}/sidecar.json").is_file()


@pytest.mark.slow
def test_two_learn_from_their_own_replies(built, tmp_path):
    root = copy_of(built, tmp_path)
    run(root, "tasks.align")
    rows, expected = curve(root, "align"), curve(built, "align")
    assert len(rows) == len(expected)
    assert rows[0].keys() == expected[0].keys()
    assert abs(rows[0]["kl"]) < 1e-2
    assert rows[0]["score"] != expected[0]["score"]  # draws of their own


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "ppo"])
def test_kills_change_nothing_with_two(built, tmp_path, name):
    space = Workspace(copy_of(built, tmp_path), CASES[name], {**stage.threads_environment("2"), **TWO})
    space.complete(seconds=1000)
    drill(space, random.Random(f"two {name}"), kills=3, seconds=12.0)
    assert space.resumed() > 0
