"""Our loops beside TRL 1.16 at its best settings: the same model, rows, optimiser steps and machine.

    python tests/bench/learning.py [--data pairs.jsonl.gz] [--only sft,dpo] [--runs 3]

Every run is a process of its own that trains one epoch; ours and the peer's alternate. Prints and writes
data/bench/learning.json: per algorithm rows per second of both, the median of the ratios run by run, and the peak
memory of both. Without --data the rows are those of the embedded world. Takes about half an hour.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ALGORITHMS = ("sft", "reward", "dpo", "kto", "grpo", "rloo")
SIDES = ("ours", "peer")


def measured(side: str, algorithm: str, data: Path) -> dict[str, float]:
    """One epoch in a process of its own: seconds of the training, rows, peak memory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-m", f"tests.bench.sides.{side}", algorithm, str(data)]
    done = subprocess.run(command, cwd=data, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} {algorithm}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compared(algorithm: str, data: Path, runs: int) -> dict[str, Any]:
    """Rows per second of both sides and their ratio, medians over `runs` pairs of runs."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side in SIDES:
            found[side].append(measured(side, algorithm, data))
            sys.stderr.write(f"{algorithm} {side}: {json.dumps(found[side][-1])}\n")
    speed = {side: [run["rows"] / run["seconds"] for run in found[side]] for side in SIDES}
    return {
        **{side: round(statistics.median(speed[side]), 2) for side in SIDES},
        "ratio": round(statistics.median(a / b for a, b in zip(*speed.values(), strict=True)), 2),
        "ratios": [round(a / b, 2) for a, b in zip(*speed.values(), strict=True)],
        **{f"peak_memory_mb_{side}": round(max(run["peak_memory_mb"] for run in found[side])) for side in SIDES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA") or None, help="preference pairs")
    parser.add_argument("--only", default=",".join(ALGORITHMS))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    out = ROOT / "data/bench/learning.json"
    result = json.loads(out.read_text()) if out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        source = str(Path(options.data).resolve()) if options.data else ""
        subprocess.run(
            [sys.executable, "-m", "tests.bench.sides.material", folder, source],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        for algorithm in options.only.split(","):
            result[algorithm] = compared(algorithm, Path(folder), options.runs)
            sys.stdout.write(f"{algorithm}: {json.dumps(result[algorithm])}\n")
            sys.stdout.flush()
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
