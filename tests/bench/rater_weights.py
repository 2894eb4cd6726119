"""What weights by reliability of raters are worth: the reward model's accuracy on the truth, with and without.

    python tests/bench/rater_weights.py [--seeds 0,1,2] [--careless 0,2] [--preferences 20000]

A smaller world with so many of its twelve raters answering at random. The same SFT policy, test pairs and rows;
`prepare.rater_weights` alone differs. Accuracy is that of held-out pairs whose gold utilities differ; the interval of
the difference resamples whole prompts. Prints a table and writes data/bench/rater_weights.json; four minutes a row.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from algorithms import ROOT, stages  # beside this file

from tasks import world
from tasks.evaluation import statistics
from tasks.rlhf import reward_model
from tasks.rlhf.batch import Example

OUT = ROOT / "data/bench/rater_weights.json"
DEMONSTRATIONS = 8000


def change(clone: Path, section: str, **values: Any) -> None:
    path = clone / "params.yaml"
    params = yaml.safe_load(path.read_text())
    (params[section] if section else params).update(values)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def told_right(clone: Path, seed: int) -> tuple[np.ndarray, list[str]]:
    """Per held-out pair whose truth is decided: whether the reward model agrees with it; and the pair's prompt."""
    verifiers = {item.text: json.dumps(item.verifier) for item in world.items(seed)}
    rows = [row for path in ("test", "dev") for row in _pairs(clone / f"data/prepared/pairs/{path}.parquet")]
    model = reward_model.load_reward(clone / "data/models/reward/0")
    a, b = (
        reward_model.score_examples(model, [Example(row["prompt_ids"], row[f"{side}_ids"]) for row in rows])
        for side in "ab"
    )
    gold = np.array(
        [
            np.subtract(
                *(world.utility(row["domain"], verifiers[row["cluster"]], row[f"reply_{side}"]) for side in "ab")
            )
            for row in rows
        ]
    )
    decided = np.abs(gold) > 1e-4
    right = (0.5 + 0.5 * np.sign((a - b) * gold))[decided]
    return right, [row["cluster"] for row, told in zip(rows, decided, strict=True) if told]


def _pairs(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def compared(clone: Path, seed: int) -> dict[str, Any]:
    found = {}
    for weights in ("off", "reliability"):
        change(clone, "prepare", rater_weights=weights)
        stages(clone, ("prepare", "reward 0"))
        found[weights], clusters = told_right(clone, seed)
    table = json.loads((clone / "data/raters.json").read_text())["table"]
    gain = statistics.mean(found["reliability"] - found["off"], clusters, seed=0, num_resamples=2000)
    assert gain is not None
    return {
        "off": float(found["off"].mean()),
        "reliability": float(found["reliability"].mean()),
        "gain": [gain.value, gain.low, gain.high],
        "n": gain.n,
        "weights": {row["rater"]: round(row["weight"], 2) for row in table},
        "votes_shared": int(np.median([row["votes_shared"] for row in table])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--careless", default="2,0")
    parser.add_argument("--preferences", type=int, default=20_000)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in (int(part) for part in options.seeds.split(",")):
            clone = Path(temporary) / f"clone-{seed}"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            change(clone, "", seed=seed)
            change(clone, "sft", num_epochs=2)
            change(clone, "collect", labeller="none")
            for careless in (int(part) for part in options.careless.split(",")):
                size = {"num_demonstrations": DEMONSTRATIONS, "num_preferences": options.preferences}
                change(clone, "world", num_careless=careless, **size)
                first = not (clone / "data/models/sft").exists()
                stages(clone, ("ingest", "prepare", *(("validate", "sft") if first else ()), "collect"))
                results.append({"seed": seed, "careless": careless, **compared(clone, seed)})
                OUT.parent.mkdir(parents=True, exist_ok=True)
                OUT.write_text(json.dumps(results, indent=2) + "\n")
                sys.stdout.write(f"{json.dumps(results[-1])}\n")
                sys.stdout.flush()
    lines = ["| seed | careless | off | reliability | gain | n |", "|---" * 6 + "|"]
    for row in results:
        gain = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["gain"])
        lines.append(
            f"| {row['seed']} | {row['careless']} | {row['off']:.4f} | {row['reliability']:.4f} | {gain} | {row['n']} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
