"""reward: fit a reward model to what people prefer; one ensemble member per call, `python -m tasks.reward 0`.

reads   data/models/sft  data/tokenizer  data/prepared/{pairs/{train,dev},demonstrations}  data/collected/{train,dev}
        data/raw/demonstrations, data/prepared/canary.json (the canary's texts, and which they are)
writes  data/models/reward/<member>

Where there are several members, each leaves out its own share of the prompts and is measured on it.
"""

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.rlhf.options import ModelOptions, RewardOptions

if TYPE_CHECKING:
    from tasks.rlhf.comparisons import Comparison
    from tasks.rlhf.reward_model import RewardModel


FOLDS = {"reward": "train", "judge": "judge"}  # section: the fold it learns from
READS = ("models/sft", "tokenizer", "prepared/demonstrations", "prepared/canary.json", "raw/demonstrations")


class FitParams(stage.Params, RewardOptions):
    """What the sections `reward` and `judge` share."""

    seed: int
    model: ModelOptions


class Params(FitParams):
    members: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def run(params: Params, data: Path, tracker: FileTracker, *, member: int) -> dict[str, Any]:
    from tasks.rlhf import comparisons

    def left_out(row: "Comparison") -> bool:
        of_it = len(params.members) > 1 and comparisons.left_out_by(row.cluster, params.members) == member
        return of_it and not row.planted

    rows = comparisons.read_comparisons(params, *(data / table for table in tables("train")))
    kept = [row for row in rows if not left_out(row)]
    model, metrics = fit("reward", params, params.seed * 1000 + member, kept, data, tracker)
    save(model, data, data / f"models/reward/{member}")
    return metrics | {"left_out": quality(model, [row for row in rows if left_out(row)], params.seed)}


def fit(
    name: str, params: FitParams, seed: int, rows: "Sequence[Comparison]", data: Path, tracker: FileTracker
) -> "tuple[RewardModel, dict[str, Any]]":
    """A reward model trained on the rows, normalised on replies of the SFT policy; and what there is to say of it.

    `name` is its section of the parameters. Raises ValueError where the canary fails.
    """
    from tasks.preferences import canary as obvious
    from tasks.rlhf import canary, comparisons, dataset, length_bias, models, reward_model, train_reward

    fold, planted = FOLDS[name], [row for row in rows if row.planted]
    rows = [row for row in rows if not row.planted]
    comparisons.check(rows, params, data / f"prepared/pairs/{fold}.parquet")
    models.seed_everything(seed)
    model = reward_model.new_reward_model(data / "models/sft", params.model.dtype, seed, params, params.model.lora)
    model.network = models.to_train(model.network, params.model, "SEQ_CLS")
    learned = length_bias.balanced(rows) if params.length_bias == "balanced" else rows
    model.network.train()
    with tracker.phase("train"):
        train_reward.train(model, model.network, [*learned, *planted], params, seed, tracker)
    model.network.eval()
    if params.length_bias == "residual":
        length_bias.take_off(model, rows)
    replies = dataset.read_sft_replies(data / f"collected/{fold}.parquet", data / "prepared/demonstrations")
    reward_model.normalise(model, replies)
    with tracker.phase("measure"):
        tokenizer = models.load_tokenizer(data / "tokenizer")
        canaries = canary.tokenised(*obvious.read(data, fold), tokenizer, params.model.max_length)
        told = canary.check(canaries, partial(reward_model.lead, model), params.canary_share, name)
        held_out = comparisons.read_comparisons(params, *(data / table for table in tables("dev")))
        dev = quality(model, held_out, seed)
    last = tracker.curve[max(tracker.curve)]
    return model, {
        "num_pairs": len(rows),
        "num_learned": len(learned),  # less than num_pairs where `length_bias: balanced` cannot use a pair
        "num_tied": sum(row.label == 0.5 for row in rows),
        "train_accuracy": last["accuracy"],
        "final_loss": last["loss"],
        "final_score_size": last["score_size"],
        "ties": model.ties or {},
        "scale": model.scale,
        "length_slope": model.length_slope,
        "num_normalising_replies": len(replies),
        "canary": told,
        "dev": dev,
    }


def tables(fold: str) -> tuple[str, str]:
    """The comparisons of a fold, under data/."""
    return f"prepared/pairs/{fold}.parquet", f"collected/{fold}.parquet"


def save(model: "RewardModel", data: Path, folder: Path) -> None:
    from tasks.records import content_hash
    from tasks.rlhf import models, reward_model

    base = content_hash(data / "models/sft")
    reward_model.save_reward(model, models.load_tokenizer(data / "tokenizer"), folder, base)


def quality(model: "RewardModel", rows: "Sequence[Comparison]", seed: int) -> dict[str, Any]:
    """Accuracy on decided pairs that were not trained on, also of those that prefer the shorter reply; at most 2000."""
    from tasks.evaluation import statistics
    from tasks.rlhf import reward_quality

    if not rows:
        return {}
    rows = rows[:: math.ceil(len(rows) / 2000)]
    measured = reward_quality.measure(model, rows)

    def share(chosen: Any) -> statistics.Interval | None:
        clusters = [row.cluster for row, is_chosen in zip(rows, chosen, strict=True) if is_chosen]
        return statistics.share(measured.right[chosen], clusters, seed=seed, num_resamples=1000)

    return {
        "accuracy": share(measured.decided),
        "accuracy_longer_better": share(measured.leads > 0),
        "accuracy_shorter_better": share(measured.leads < 0),
        "length_correlation": measured.length_correlation,
        "heads": measured.heads,
    }


def member_stage(member: int) -> stage.Stage:
    return stage.Stage(
        f"reward@{member}",
        Params,
        partial(run, member=member),
        reads=(*READS, *tables("train"), *tables("dev")),
        writes=(f"models/reward/{member}",),
        trains=True,
    )


if __name__ == "__main__":
    stage.main(member_stage(int(sys.argv[1])))
