"""Every algorithm on the embedded default, a table: gold win rate against SFT, KL, reply length, seconds; per seed.

    python tests/bench/algorithms.py [--seeds 1,2,3] [--only dpo,ppo] [--folder PATH]

The stages up to the reward models run once a seed, then objective, align and evaluate for each algorithm, as `python -m
tasks.<stage>`. Writes data/bench/algorithms.json after each; what is there already, from the same revision, is not run
again. About ten minutes a seed and two more for each algorithm.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OUT = ROOT / "data/bench/algorithms.json"
FAMILIES = ("preference", "policy")
BEFORE = ("ingest", "validate", "prepare", "sft", "collect", "reward 0", "judge")


def known() -> list[str]:
    return sorted(path.stem for family in FAMILIES for path in (ROOT / "tasks/rlhf" / family).glob("[a-z]*.py"))


def stages(clone: Path, names: Sequence[str]) -> dict[str, float]:
    """Run them in turn; seconds of each. RuntimeError with its last words where one fails."""
    spent = {}
    for name in names:
        started = time.monotonic()
        command = [sys.executable, "-m", *f"tasks.{name}".split()]
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: exit {done.returncode}\n{done.stderr[-2000:]}")
        spent[name.partition(" ")[0]] = round(time.monotonic() - started, 1)
    return spent


def change(clone: Path, seed: int, algorithm: str, **world: Any) -> None:
    path = clone / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["seed"], params["align"]["algorithm"] = seed, algorithm
    params["world"] |= world
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def row(clone: Path, spent: dict[str, float]) -> dict[str, Any]:
    """What the table says of one run, intervals as [value, low, high]."""
    metrics = json.loads((clone / "data/reports/evaluate.json").read_text())["metrics"]
    aligned = json.loads((clone / "data/reports/align.json").read_text())["metrics"]
    sidecar = json.loads((clone / "data/runs/align/sidecar.json").read_text())

    def interval(found: dict[str, float]) -> list[float]:
        return [round(found[key], 3) for key in ("value", "low", "high")]

    return {
        "gold": interval(metrics["win_rate"]["gold"]),
        "judge": interval(metrics["win_rate"]["judge"]),
        "kl": interval(metrics["models"]["policy"]["kl"]),
        "tokens": interval(metrics["models"]["policy"]["num_tokens"]),
        "seconds": spent["align"],
        "peak_memory_mb": sidecar["peak_memory_mb"],
        "stopped": aligned.get("stopped"),
    }


def revision() -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def table(results: dict[str, Any]) -> str:
    lines = ["| algorithm | seed | gold win rate | judge | KL | tokens | seconds | MB |", "|---" * 8 + "|"]
    for key in sorted(results):
        seed, algorithm = key.split("/")
        found = results[key]
        gold, low, high = found["gold"]
        figures = f"{found['judge'][0]:.3f} | {found['kl'][0]:.2f} | {found['tokens'][0]:.1f}"
        cost = f"{found['seconds']:.0f} | {found['peak_memory_mb']:.0f}"
        lines.append(f"| {algorithm} | {seed} | {gold:.3f} [{low:.3f}, {high:.3f}] | {figures} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", default=",".join(known()))
    parser.add_argument("--folder", type=Path, help="keep the clones here instead of in a temporary folder")
    options = parser.parse_args()
    kept = json.loads(OUT.read_text()) if OUT.is_file() else {}
    results = kept["results"] if kept.get("revision") == revision() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in map(int, options.seeds.split(",")):
            wanted = [name for name in options.only.split(",") if f"{seed}/{name}" not in results]
            if not wanted:
                continue
            clone = (options.folder or Path(temporary)) / f"seed-{seed}"
            if not (clone / "data/models/judge").is_dir():
                subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
                change(clone, seed, wanted[0])
                stages(clone, BEFORE)
            for name in wanted:
                change(clone, seed, name)
                try:
                    results[f"{seed}/{name}"] = row(clone, stages(clone, ("objective", "align", "evaluate")))
                except RuntimeError as error:  # the others go on; run again, it is tried again
                    sys.stdout.write(f"seed {seed}, {name}: {error}\n")
                    continue
                OUT.parent.mkdir(parents=True, exist_ok=True)
                OUT.write_text(
                    json.dumps({"revision": revision(), "results": results}, indent=2, sort_keys=True) + "\n"
                )
                sys.stdout.write(f"seed {seed}, {name}: {json.dumps(results[f'{seed}/{name}'])}\n")
                sys.stdout.flush()
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
