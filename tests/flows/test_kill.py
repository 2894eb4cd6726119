"""Kill -9 of the flow or of a stage at random moments; then the main job completes, with nothing torn or doubled."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tasks.hashes import content_hash

ROOT = Path(__file__).parents[2]
LIMIT = 600  # seconds; on a busy machine a run that was not hit is not a hang
OUTPUTS = ("raw", "tokenizer", "prepared", "collected", "models", "curves", "evaluation")


def clone(folder: Path) -> Path:
    """A clone of the project as it is here, with the parameters of the smoke recipe."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    shutil.copy(ROOT / "infra/recipes/smoke.yaml", folder / "params.yaml")
    return folder


def start(folder: Path) -> "subprocess.Popen[bytes]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "flows.retrain"]
    with (folder / "data/kill.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill_at_random(process: "subprocess.Popen[bytes]", rng: random.Random, victim: str) -> str | None:
    """SIGKILL the flow, or a stage that is running, after a random while; None where the run was done before."""
    try:
        process.wait(rng.uniform(3, 45))
    except subprocess.TimeoutExpired:
        stages = {pid: line for pid, line in family(process).items() if "tasks." in line}
        target = rng.choice(sorted(stages)) if victim == "stage" and stages else process.pid
        with suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)
            process.wait(timeout=LIMIT)
            return stages.get(target, "the flow")
    assert process.wait(timeout=LIMIT) == 0
    return None


def family(process: "subprocess.Popen[bytes]") -> dict[int, str]:
    """The command lines of a run's processes, by pid."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found[child.pid] = " ".join(child.cmdline())
    return found


@pytest.mark.slow
def test_the_main_job_survives_ten_kills(tmp_path: Path, store: Callable[[Path], Any]) -> None:
    reference, folder = clone(tmp_path / "reference"), clone(tmp_path / "killed")
    assert start(reference).wait(timeout=LIMIT) == 0
    rng = random.Random(20261121)
    kills = 0
    while kills < 10:
        killed = kill_at_random(start(folder), rng, "stage" if kills % 2 else "flow")
        if killed is None:  # start over
            shutil.rmtree(folder / "data/models", ignore_errors=True)
            (folder / "dvc.lock").unlink()
            shutil.rmtree(folder / ".dvc/cache", ignore_errors=True)
            continue
        kills += 1
        sys.stdout.write(f"kill {kills}: {killed}\n")
    last = start(folder)
    assert last.wait(timeout=LIMIT) == 0, (folder / "data/kill.log").read_text()[-3000:]
    for name in OUTPUTS:
        assert content_hash(folder / "data" / name) == content_hash(reference / "data" / name), name
    locks = [yaml.safe_load((root / "dvc.lock").read_text())["stages"] for root in (folder, reference)]
    assert locks[0] == locks[1]
    assert len(store(folder).versions()) == 1
    assert len(store(folder).versions("reward-model")) == 1
    leftovers = [p for p in psutil.process_iter(["cmdline", "cwd"]) if p.info["cwd"] == str(folder)]
    assert not leftovers
