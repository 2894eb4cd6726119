"""Our loops beside TRL 1.16 at its best settings: the same model, rows, optimiser steps and machine.

    python tests/bench/learning.py [--data pairs.jsonl.gz] [--only sft,dpo] [--runs 3] [--compiled] [--ranked 4]

Every run is a process of its own that trains one epoch; ours and the peer's alternate. Prints and writes
data/bench/learning.json: per algorithm rows per second of both, the median of the ratios run by run, and the peak
memory of both. On a processor that is fast in bfloat16 the peer runs twice: `peer` keeps float32 weights and computes
in bfloat16, as we do; `peer_coarse` has weights and moments in bfloat16 alone, which is faster and rounds small steps
away. Without --data the rows are those of the embedded world. Takes about half an hour. With --compiled both sides
compile their models with torch.compile and are timed in a second epoch, when that is done; not of GRPO and RLOO.
With --ranked the pairs are those of rankings of so many replies; of reward models and DPO.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.sides import material  # noqa: E402

ALGORITHMS = ("sft", "reward", "dpo", "kto", "grpo", "rloo")
# What our stages ask of glibc (tasks/rlhf/models.py), which helps the peer as well.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
PEERS = {"peer": {"PEER_BF16": "autocast"}, "peer_coarse": {"PEER_BF16": "weights"}}


def sides_of(data: Path) -> tuple[str, ...]:
    return ("ours", *PEERS)[: 3 if material.dtype_of(data) == "bfloat16" else 2]


def measured(side: str, algorithm: str, data: Path, mode: Mapping[str, str]) -> dict[str, float]:
    """One epoch in a process of its own: seconds of the training, rows, peak memory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= mode
    if side != "ours":
        environment |= KEEP_MEMORY | PEERS[side]
    module = "tests.bench.sides.ours" if side == "ours" else "tests.bench.sides.peer"
    command = [sys.executable, "-W", "ignore", "-m", module, algorithm, str(data)]
    done = subprocess.run(command, cwd=data, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} {algorithm}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compared(algorithm: str, data: Path, runs: int, mode: Mapping[str, str]) -> dict[str, Any]:
    """Rows per second of all sides, and ours in proportion to each peer's: medians over `runs` rounds."""
    sides = sides_of(data)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(runs):
        for side in sides:
            found[side].append(measured(side, algorithm, data, mode))
            sys.stderr.write(f"{algorithm} {side}: {json.dumps(found[side][-1])}\n")
    speed = {side: [run["rows"] / run["seconds"] for run in found[side]] for side in sides}
    result: dict[str, Any] = {side: round(statistics.median(speed[side]), 2) for side in sides}
    for side in sides[1:]:
        ratios = [ours / theirs for ours, theirs in zip(speed["ours"], speed[side], strict=True)]
        suffix = side.removeprefix("peer")
        result |= {f"ratio{suffix}": round(statistics.median(ratios), 2)}
        result |= {f"ratios{suffix}": [round(ratio, 2) for ratio in ratios]}
    return result | {
        f"peak_memory_mb_{side}": round(max(run["peak_memory_mb"] for run in found[side])) for side in sides
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA") or None, help="preference pairs")
    parser.add_argument("--only")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--ranked", type=int, help="replies")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.ranked and (
        options.ranked < 3 or options.compiled or not set((options.only or "dpo").split(",")) <= {"reward", "dpo"}
    ):
        parser.error("--ranked: three replies or more, of reward and dpo, not with --compiled")
    mode: dict[str, str] = {}
    suffix, algorithms = "", ALGORITHMS
    if options.compiled:
        mode, suffix, algorithms = {material.COMPILED: "1"}, "_compiled", ("sft", "reward", "dpo", "kto")
    if options.ranked:
        mode, suffix = {material.RANKED: str(options.ranked)}, f"_ranked_{options.ranked}"
        algorithms = ("reward", "dpo")
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
        for algorithm in options.only.split(",") if options.only else algorithms:
            name = algorithm + suffix
            result[name] = compared(algorithm, Path(folder), options.runs, mode)
            sys.stdout.write(f"{name}: {json.dumps(result[name])}\n")
            sys.stdout.flush()
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
