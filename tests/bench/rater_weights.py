"""What weights by reliability of raters are worth: the reward model's accuracy on the truth, with and without.

    python -m tests.bench.rater_weights [--seeds 0,1,2] [--careless 2,0] [--preferences 4000]

A small world and model, with so many of the twelve raters answering at random and half of the comparisons judged by
two. The same SFT policy, rows and test pairs; `prepare.rater_weights` alone differs. Accuracy is that of held-out
pairs whose gold utilities differ; the interval of the difference resamples whole prompts. Writes
data/bench/rater_weights.json; about a minute a row.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tasks import world
from tasks.evaluation import statistics
from tasks.files import write_json
from tasks.records import read_table
from tasks.rlhf import reward_model
from tasks.rlhf.batch import Example
from tests.tasks.conftest import ROOT, inside, run_stage, workspace

OUT = ROOT / "data/bench/rater_weights.json"
SMALL = {
    "model": {"hidden_size": 64, "num_layers": 1, "num_heads": 4, "intermediate_size": 192, "vocab_size": 700},
    "sft": {"num_epochs": 1, "batch_tokens": 1024},
    "collect": {"labeller": "none"},
    "reward": {"num_epochs": 1, "batch_tokens": 2048},
}


def change(section: str, **values: Any) -> None:
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text())
    (params[section] if section else params).update(values)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def told_right(seed: int) -> tuple[np.ndarray, list[str]]:
    """Per held-out pair whose truth is decided: whether the reward model agrees with it; and the pair's prompt."""
    verifiers = {item.text: json.dumps(item.verifier) for item in world.items(seed)}
    rows = [row for fold in ("test", "dev") for row in read_table(Path(f"data/prepared/pairs/{fold}")).to_pylist()]
    model = reward_model.load_reward(Path("data/models/reward/0"))
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


def compared(seed: int) -> dict[str, Any]:
    found = {}
    for weights in ("off", "reliability"):
        change("prepare", rater_weights=weights)
        for name in ("prepare", "reward"):
            run_stage(name)
        found[weights], clusters = told_right(seed)
    table = json.loads(Path("data/raters.json").read_text())["table"]
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
    parser.add_argument("--preferences", type=int, default=4000)
    parser.add_argument("--overlap", type=float, default=0.5)
    options = parser.parse_args()
    numbers = {name: [int(part) for part in getattr(options, name).split(",")] for name in ("seeds", "careless")}
    results: list[dict[str, Any]] = []
    for careless in numbers["careless"]:
        for seed in numbers["seeds"]:
            size = {"num_demonstrations": 2000, "num_preferences": options.preferences}
            size |= {"num_careless": careless, "overlap": options.overlap}
            with tempfile.TemporaryDirectory() as folder, inside(workspace(Path(folder), {**SMALL, "world": size})):
                change("", seed=seed)
                write_json(Path("data/contract.json"), {})  # not what is measured
                for name in ("ingest", "prepare", "sft", "collect"):
                    run_stage(name)
                results.append({"seed": seed, "careless": careless, **compared(seed)})
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
