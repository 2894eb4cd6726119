"""Kill -9 of the real stages at random moments: run again to their end, they leave what an uninterrupted run leaves."""

import fcntl
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.adapters import stage, warm
from tasks.adapters.checkpoints import SECONDS
from tasks.adapters.delivery import read_lines
from tasks.hashes import content_hash
from tests.tasks.conftest import ROOT, inside, run_stage
from tests.tasks.test_pipeline import change, copy_of

LIMIT = 900.0  # seconds; a process that has not come that far by then hangs


@dataclass(frozen=True)
class Case:
    stage: str
    command: tuple[str, ...]
    output: str
    align: dict = field(default_factory=dict)


CASES = {
    "sft": Case("sft", ("tasks.sft",), "models/sft"),
    "reward": Case("reward@0", ("tasks.reward", "0"), "models/reward/0"),
    "dpo": Case(
        "align",
        ("tasks.align",),
        "models/policy",
        # Without the canary: so small a world leaves DPO near its bar, and here only sameness counts.
        {
            "algorithm": "dpo",
            "dpo": {"num_epochs": 2, "lr": 1e-3, "batch_tokens": 1024, "beta": 0.1, "canary_share": 0},
        },
    ),
    "ppo": Case("align", ("tasks.align",), "models/policy"),
}


class Workspace:
    """A built workspace in which one stage is run as the process that DVC would start."""

    def __init__(self, root, case, environment):
        self.root, self.case = root, case
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        if case.align:
            change(root, "align", **case.align)
            with inside(root):
                run_stage("objective")

    @property
    def data(self):
        return self.root / "data"

    def start(self, seconds):
        """As DVC does: what the stage writes is removed before it runs."""
        shutil.rmtree(self.data / self.case.output, ignore_errors=True)
        for file in (f"reports/{self.case.stage}.json", f"curves/{self.case.stage}.csv"):
            (self.data / file).unlink(missing_ok=True)
        with (self.root / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self.case.command],
                cwd=self.root,
                env=self.environment | {SECONDS: str(seconds)},
                stdout=log,
                stderr=log,
            )

    def complete(self, seconds):
        assert self.start(seconds).wait(LIMIT) == 0, (self.root / "log").read_text()[-2000:]

    def result(self):
        """Everything that must not depend on whether a run was interrupted."""
        files = (f"reports/{self.case.stage}.json", f"curves/{self.case.stage}.csv")
        figures = [line for line in self.telemetry() if "tokens_per_second" not in line["metrics"]]
        return {
            "model": content_hash(self.data / self.case.output),
            **{file: (self.data / file).read_text() for file in files},
            "telemetry": [(line["step"], line["of"], line["metrics"]) for line in figures],
        }

    def telemetry(self):
        return read_lines(self.data / f"runs/{self.case.stage}/telemetry.jsonl")[0]

    def kill(self, seconds, is_time):
        """Start the stage, and SIGKILL it when it is time (or it is done); whether it left a checkpoint."""
        process = self.start(seconds)
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and not is_time():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        with (self.data / f".lock/{self.case.stage}").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # a forked stage ends a moment after its caller
        return any(self.data.glob(f"checkpoints/{self.case.stage}/*/*.pt"))

    def resumed(self):
        """How often a run went on from a checkpoint."""
        return (self.root / "log").read_text().count("checkpoint: going on after step")


def drill(space, rng, kills, seconds):
    """Kills in runs of about so many seconds, then one to the end: nothing differs, nothing is left."""
    expected = space.result()
    steps = expected["telemetry"][-1][0]
    left = 0
    for number in range(kills):
        is_time = moment(space, rng, steps, None if number % 3 != 1 else seconds)
        left += space.kill([0, 0.02][number % 2], is_time)
    space.complete(seconds=0.02)
    assert space.result() == expected
    assert not any(space.data.glob("checkpoints/*"))
    return left


def moment(space, rng, steps, seconds):
    """A random moment: of a run of about so many seconds, or between two steps of its training."""
    begun = time.time()
    if seconds is not None:
        end = begun + rng.uniform(0.0, seconds)
        return lambda: time.time() > end
    last, delay = rng.randrange(1, steps - 1), rng.uniform(0.0, 0.02)

    def is_time():
        if not any(line["step"] > last and line["time"] > begun for line in space.telemetry()):
            return False
        time.sleep(delay)
        return True

    return is_time


@pytest.fixture(scope="module")
def forked():
    """Variables with which a stage is forked from a process that has imported torch; it is killed all the same."""
    threads = stage.threads_environment("1")
    with warm.WarmProcess({**os.environ, **threads, "PYTHONPATH": str(ROOT)}, warm.TRAINING) as process:
        process.start()
        deadline = time.monotonic() + LIMIT
        while not Path(process.address).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield {**threads, warm.ADDRESS: process.address}


@pytest.mark.parametrize("name", CASES)
def test_kills_change_nothing(name, built, tmp_path, forked):
    space = Workspace(copy_of(built, tmp_path), CASES[name], forked)
    if CASES[name].align:
        space.complete(seconds=1000)
    drill(space, random.Random(f"few {name}"), kills=2, seconds=2.0)
    assert space.resumed() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_kills_change_nothing(name, built, tmp_path):
    """Each a process of its own, as with `dvc repro` alone."""
    space = Workspace(copy_of(built, tmp_path), CASES[name], stage.threads_environment("1"))
    ppo = stage.read_yaml(space.root / "params.yaml")["align"]["ppo"]
    change(space.root, "align", ppo={**ppo, "num_steps": 8})
    started = time.monotonic()
    space.complete(seconds=1000)
    left = drill(space, random.Random(f"many {name}"), kills=12, seconds=time.monotonic() - started)
    sys.stdout.write(f"{name}: 12 kills, {left} left a checkpoint, {space.resumed()} runs went on from one\n")
    assert space.resumed() >= 6
