"""What the raters' noise costs: one algorithm on worlds whose raters err less and more, a table.

    python tests/bench/noise.py [--noise 0.25,1,2,4,8] [--algorithm dpo] [--seed 6]

The same prompts, demonstrations and SFT policy; comparisons, reward models and the aligned policy are made anew for
each noise. Writes data/bench/noise.json. About six minutes a noise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from algorithms import BEFORE, ROOT, change, row, stages  # beside this file

OUT = ROOT / "data/bench/noise.json"


def quality(clone: Path) -> dict[str, list[float]]:
    """Pair accuracy of the reward model on held-out labels, and of the gold utility on the same: the ceiling."""
    found = json.loads((clone / "data/reports/evaluate.json").read_text())["metrics"]["reward"]
    return {
        key: [round(found[key][part], 3) for part in ("value", "low", "high")]
        for key in ("accuracy", "ceiling", "gold_accuracy")
    }


def table(results: dict[str, Any]) -> str:
    def shown(interval: list[float]) -> str:
        return "{:.3f} [{:.3f}, {:.3f}]".format(*interval)

    lines = ["| noise | ceiling | reward accuracy | against gold | gold win rate | KL | tokens |", "|---" * 7 + "|"]
    for noise, found in results.items():
        pairs = [shown(found[key]) for key in ("ceiling", "accuracy", "gold_accuracy", "gold")]
        lines.append(f"| {noise} | {' | '.join(pairs)} | {found['kl'][0]:.2f} | {found['tokens'][0]:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noise", default="0.25,1,2,4,8")
    parser.add_argument("--algorithm", default="dpo")
    parser.add_argument("--seed", type=int, default=6)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for noise in options.noise.split(","):
            change(clone, options.seed, options.algorithm, noise=float(noise))
            before = [name for name in BEFORE if name != "sft" or not results]
            spent = stages(clone, (*before, "objective", "align", "evaluate"))
            results[noise] = row(clone, spent) | quality(clone)
            OUT.parent.mkdir(parents=True, exist_ok=True)
            OUT.write_text(json.dumps(results, indent=2) + "\n")
            sys.stdout.write(f"noise {noise}: {json.dumps(results[noise])}\n")
            sys.stdout.flush()
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
