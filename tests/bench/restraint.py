"""What holds a reward model's scores down, and what length has to do with them, epoch by epoch.

    python -m tests.bench.restraint [--epochs 4] [--preferences 6000] [--length-bias 0.1] [--only off,l2]

A small world whose raters like every word more by so many utils (the truth does not), and a small model. The same SFT
policy and rows; `reward` alone differs. Measured after each epoch of one schedule over all of them, on the pairs of
the folds test and dev, by raw scores, which Bradley-Terry calibrates: mean and deviation of the replies' scores, pairs
told right by the raters' labels and by the truth (intervals resample whole prompts), log loss, correlation of score
with length within pairs, and the share told right of the pairs whose longer reply is the worse one in truth. Writes
data/bench/restraint.json; about half a minute a row on a free core.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.evaluation import held_out, statistics
from tasks.files import write_json
from tasks.rlhf import length_bias, models, reward_model, reward_quality, train_reward
from tasks.rlhf.checkpoint import Checkpoints
from tasks.rlhf.comparisons import Comparison, read_comparisons
from tasks.rlhf.options import RewardOptions
from tasks.rlhf.reward_model import RewardModel
from tests.tasks.conftest import ROOT, inside, run_stage, workspace

OUT = ROOT / "data/bench/restraint.json"
SMALL = {
    "model": {"hidden_size": 64, "num_layers": 1, "num_heads": 4, "intermediate_size": 192, "vocab_size": 700},
    "sft": {"num_epochs": 1, "batch_tokens": 1024},
}
OPTIONS = {"lr": 1e-3, "batch_tokens": 2048, "weight_decay": 0.1}
RESTRAINTS: dict[str, dict[str, Any]] = {
    "off": {},
    "centering": {"centering": 0.01},
    "l2": {"l2": 0.01},
    "bounded": {"bound": 3.0},
    "per_token": {"pooling": "mean"},
    "length_residual": {"length_bias": "residual"},
    "length_balanced": {"length_bias": "balanced"},
}
PAIRS = ("prepared/pairs/test", "prepared/pairs/dev")


@dataclass(frozen=True)
class HeldOut:
    rows: list[Comparison]
    gold: np.ndarray  # true utility of reply a less that of reply b

    @property
    def clusters(self) -> list[str]:
        return [row.cluster for row in self.rows]


class AtEpochs(Checkpoints):
    """Keeps nothing: looks at the model where an epoch ends, as far as equal epochs tell."""

    def __init__(self, num_epochs: int, look: Any) -> None:
        super().__init__()
        self.ends: set[int] = set()
        self._num_epochs, self._look = num_epochs, look

    def save(self, step: int, parts: Any) -> None:
        if step in self.ends:
            self._look()

    def know(self, total: int) -> None:
        self.ends = {round(total * epoch / self._num_epochs) for epoch in range(1, self._num_epochs + 1)}


class Tracker:
    def __init__(self, checkpoints: AtEpochs) -> None:
        self.checkpoints = checkpoints

    def log(self, step: int, total: int, **metrics: float) -> None:
        self.checkpoints.know(total)

    def measure(self, step: int, total: int, **metrics: float) -> None:
        pass

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        yield


def read_held_out(options: RewardOptions) -> HeldOut:
    data = Path("data")
    rows, truth = [], []
    for path in PAIRS:
        name = Path(path).name
        fold = held_out.Fold(name, f"prepared/prompts/{name}", f"prepared/safety/{name}", (path,))
        rows += read_comparisons(options, data / path)
        truth += [row["gold_a"] - row["gold_b"] for row in held_out.read_pairs(data, fold)]
    assert len(rows) == len(truth), "a comparison without a label"
    return HeldOut(rows, np.array(truth))


def measured(model: RewardModel, found: HeldOut, seed: int) -> dict[str, Any]:
    rows = found.rows
    both = [row.a for row in rows], [row.b for row in rows]
    scores = [reward_model.score_examples(model, side) for side in both]
    gaps, labels = scores[0] - scores[1], np.array([row.label for row in rows])
    lengths = length_bias.length_gaps(rows)
    differ = np.abs(found.gold) > 1e-4
    truth = 0.5 + 0.5 * np.sign(found.gold)

    def share(right: np.ndarray, chosen: np.ndarray) -> list[float]:
        clusters = [cluster for cluster, is_chosen in zip(found.clusters, chosen, strict=True) if is_chosen]
        interval = statistics.share(right[chosen], clusters, seed=seed, num_resamples=1000)
        assert interval is not None
        return [round(x, 3) for x in (interval.value, interval.low, interval.high, interval.n)]

    log_loss = labels * np.logaddexp(0, -gaps) + (1 - labels) * np.logaddexp(0, gaps)
    by_truth = reward_quality.told_right(gaps, truth)
    return {
        "mean": round(float(np.mean(scores)), 3),
        "deviation": round(float(np.std(scores)), 3),
        "accuracy": share(reward_quality.told_right(gaps, labels), labels != 0.5),
        "truth": share(by_truth, differ),
        "log_loss": round(float(log_loss.mean()), 4),
        "length_correlation": round(length_bias.correlation(gaps, lengths) or 0.0, 3),
        "longer_is_worse": share(by_truth, differ & (lengths * found.gold < 0)),
    }


def trained(name: str, num_epochs: int, seed: int) -> list[dict[str, Any]]:
    """Figures after each epoch."""
    options = RewardOptions(num_epochs=num_epochs, **OPTIONS, **RESTRAINTS[name])
    rows = [row for row in read_comparisons(options, Path("data/prepared/pairs/train")) if row.counted]
    learned = length_bias.balanced(rows) if options.length_bias == "balanced" else rows
    found, epochs = read_held_out(options), []
    models.seed_everything(seed)
    model = reward_model.new_reward_model(Path("data/models/sft"), "float32", seed, options)

    def look() -> None:
        model.network.eval()
        if options.length_bias == "residual":
            model.length_slope = 0.0
            length_bias.take_off(model, rows)
        epochs.append(measured(model, found, seed))
        model.network.train()

    model.network.train()
    train_reward.train(model, model.network, learned, options, seed, Tracker(AtEpochs(num_epochs, look)))
    return epochs


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    def shown(interval: list[float]) -> str:
        return "{:.3f} [{:.3f}, {:.3f}]".format(*interval[:3])

    heads = ("restraint", "epoch", "mean", "deviation", "accuracy", "by the truth", "log loss", "with length")
    lines = [f"| {' | '.join(heads)} | longer is worse |", "|---" * (len(heads) + 1) + "|"]
    for name, epochs in results.items():
        for number, found in enumerate(epochs, 1):
            cells = [f"{found['mean']:.2f}", f"{found['deviation']:.2f}", shown(found["accuracy"])]
            cells += [shown(found["truth"]), f"{found['log_loss']:.4f}", f"{found['length_correlation']:+.3f}"]
            lines.append(f"| {name} | {number} | {' | '.join(cells)} | {shown(found['longer_is_worse'])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--preferences", type=int, default=6000)
    parser.add_argument("--length-bias", type=float, default=0.1)
    parser.add_argument("--only", default=",".join(RESTRAINTS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - RESTRAINTS.keys():
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known: {', '.join(RESTRAINTS)}")
    world = {
        "num_demonstrations": options.preferences // 2,
        "num_preferences": options.preferences,
        "length_bias": options.length_bias,
    }
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "world"
        with inside(workspace(root, SMALL | {"world": world})):
            for stage in ("ingest", "validate", "prepare", "sft"):
                run_stage(stage)
            for name in options.only.split(","):
                results[name] = trained(name, options.epochs, options.seed)
                sys.stdout.write(f"{name}: {json.dumps(results[name][-1])}\n")
                sys.stdout.flush()
    write_json(OUT, {"world": world, "results": results})
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
