"""What scores of steps add to scores of answers: policies trained with either, on sums whose every step can be graded.

    python tests/bench/steps.py [--seed 0] [--only grpo/outcome,...] [--folder PATH]

The stages of infra/recipes/steps.yaml up to the two solution models, then objective and align for each algorithm and
reward. Each policy answers the held-out sums eight times; answers and steps are graded by doing the sum. Writes
data/bench/steps.json. About six minutes.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
OUT = ROOT / "data/bench/steps.json"
BEFORE = ("ingest", "validate", "prepare", "sft", "collect", "solutions outcome", "solutions process")
REWARDS = {
    "outcome": {"outcome": 1.0, "process": 0.0},
    "process": {"outcome": 0.0, "process": 1.0},
    "both": {"outcome": 1.0, "process": 1.0},
}
ASKED = [f"{algorithm}/{reward}" for algorithm in ("grpo", "ppo", "best_of_n") for reward in REWARDS]


def workspace(root: Path, seed: int) -> None:
    """The recipe, with no simulated labeller: nothing here learns from comparisons."""
    from tests.tasks.folders import bare

    params = yaml.safe_load((ROOT / "infra/recipes/steps.yaml").read_text())
    params["seed"], params["collect"]["labeller"] = seed, "none"
    bare(root)
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def choose(root: Path, name: str) -> None:
    algorithm, _, reward = name.partition("/")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["align"]["algorithm"] = algorithm
    params["align"]["rewards"] |= REWARDS[reward]
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def graded(root: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Shares [value, low, high] of right answers, right steps, replies right throughout, lucky among right answers."""
    from tasks import world_steps
    from tasks.evaluation import statistics
    from tasks.records import read_table
    from tasks.rlhf import models
    from tasks.rlhf.rollout import sample

    rows = read_table(root / "data/prepared/prompts/test").to_pylist()
    asked = [row for row in rows if row["domain"] == world_steps.DOMAIN for _ in range(8)]
    tokenizer, policy = models.load_tokenizer(folder), models.load_policy(folder)
    replies = sample(
        policy,
        [row["prompt_ids"] for row in asked],
        max_new_tokens=32,
        temperature=1.0,
        seed=seed,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode([reply.ids for reply in replies], skip_special_tokens=True)
    found = [world_steps.graded(row["cluster"], text) for row, text in zip(asked, texts, strict=True)]
    right = [row for row in found if row.correct]

    def share(values: list[bool], prompts: list[str]) -> list[float]:
        interval = statistics.share(values, prompts, seed=seed, num_resamples=1000)
        return [round(x, 3) for x in (interval.value, interval.low, interval.high)] if interval else []

    steps = [(label, row.prompt) for row in found for label in row.labels]
    return {
        "answer": share([row.correct for row in found], [row.prompt for row in found]),
        "step": share([label for label, _ in steps], [prompt for _, prompt in steps]),
        "throughout": share([row.correct and all(row.labels) for row in found], [row.prompt for row in found]),
        "lucky": share([not all(row.labels) for row in right], [row.prompt for row in right]),
        "steps_per_reply": round(len(steps) / len(found), 2),
        "replies": len(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(ASKED))
    parser.add_argument("--folder", type=Path, help="keep the workspace here instead of in a temporary folder")
    options = parser.parse_args()
    from tests.bench.algorithms import stages

    with tempfile.TemporaryDirectory() as temporary:
        root = (options.folder or Path(temporary)) / f"seed-{options.seed}"
        if not (root / "data/models/reward/process").is_dir():
            workspace(root, options.seed)
            sys.stdout.write(f"{stages(root, BEFORE)}\n")
        reports = {
            kind: json.loads((root / f"data/reports/solutions@{kind}.json").read_text())["metrics"]
            for kind in ("outcome", "process")
        }
        results: dict[str, Any] = {"models": reports, "sft": graded(root, root / "data/models/sft", options.seed)}
        for name in options.only.split(","):
            choose(root, name)
            spent = stages(root, ("objective", "align"))
            last = json.loads((root / "data/reports/align.json").read_text())["metrics"]["last"]
            results[name] = graded(root, root / "data/models/policy", options.seed)
            results[name] |= {"kl": round(last["kl"], 2), "seconds": spent["align"]}
            sys.stdout.write(f"{name}: {json.dumps(results[name])}\n")
            sys.stdout.flush()
            OUT.parent.mkdir(parents=True, exist_ok=True)
            OUT.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    sys.stdout.write(json.dumps(results["models"]) + "\n" + json.dumps(results["sft"]) + "\n")


if __name__ == "__main__":
    main()
