"""The main job from a clean clone with an empty cache, and again with nothing changed: where the time goes.

Prints the split and writes data/bench/main_job.json. Takes minutes: `make bench`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OVERHEAD = ("seconds_outside_training_and_sampling", "seconds_of_overhead")


def job(clone: Path) -> dict[str, Any]:
    """One `python -m flows.retrain`; seconds of the whole process, and its own summary."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain"], cwd=clone, env=environment, capture_output=True, text=True
    )
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"main job: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    summary = json.loads((clone / "data/reports/summary.json").read_text())
    # The run's own clock starts with the process and stops before the process ends.
    after = seconds - summary["seconds"]
    return {
        "seconds": round(seconds, 1),
        "split": {key: round(summary[key] + after, 1) for key in OVERHEAD},
        "output": done.stdout,
        "summary": summary,
    }


def phases(summary: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase of work, over all stages."""
    spent: dict[str, float] = {}
    for row in summary["stages"].values():
        for phase, seconds in row["phases"].items():
            spent[phase] = round(spent.get(phase, 0.0) + seconds, 1)
    return spent


def versions(clone: Path) -> int:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    return len(client.search_model_versions("name = 'policy'"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run([sys.executable, "-m", "flows.server"], cwd=clone, check=True)  # as the set-up of `make` does
        first = job(clone)
        count = versions(clone)
        again = job(clone)
        result = {
            "first_seconds": first["seconds"],  # of the whole process
            "first_split": first["split"],
            "first_phases": phases(first["summary"]),
            "first": first["summary"],
            "again_seconds": again["seconds"],
            "again_ran_nothing": "nothing changed" in again["output"],
            "versions_after_first": count,
            "versions_after_again": versions(clone),
        }
    out = ROOT / "data/bench/main_job.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    sys.stdout.write(first["output"])
    shown = {k: v for k, v in result.items() if k != "first"}
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")


if __name__ == "__main__":
    main()
