"""reward: fit a reward model to what people prefer; one ensemble member per call, `python -m tasks.reward 0`.

reads   data/models/sft  data/tokenizer  data/prepared/{pairs/{train,dev},demonstrations}  data/collected/{train,dev}
        data/raw/demonstrations, data/prepared/canary.json (the canary's texts, and which they are)
        data/swaps.jsonl
writes  data/models/reward/<member>

Where there are several members, each leaves out its own share of the prompts and is measured on it.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from tasks import chat
from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.rlhf.counterexample_options import CounterexampleOptions, SwapOptions
from tasks.rlhf.options import ModelOptions, RewardOptions

if TYPE_CHECKING:
    from tasks.rlhf.comparisons import Comparison
    from tasks.rlhf.reward_model import RewardModel


FOLDS = {"reward": "train", "judge": "judge"}  # section: the fold it learns from
READS = ("models/sft", "tokenizer", "prepared/demonstrations", "prepared/canary.json", "raw/demonstrations")
MEASURED = 200  # counterexamples of a kind, and swaps, that a model is asked about


class FitParams(stage.Params, RewardOptions):
    """What the sections `reward` and `judge` share."""

    seed: stage.Seed
    model: ModelOptions


class Params(FitParams):
    members: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    counterexamples: CounterexampleOptions = CounterexampleOptions()
    swaps: SwapOptions = SwapOptions()

    @field_validator("members")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("each member is a number of its own; remove the repeated one")
        return value


def run(params: Params, data: Path, tracker: FileTracker, *, member: int) -> dict[str, Any]:
    from tasks.rlhf import comparisons

    def left_out(row: "Comparison") -> bool:
        of_it = len(params.members) > 1 and comparisons.left_out_by(row.cluster, params.members) == member
        return of_it and not row.planted

    rows = comparisons.read_comparisons(params, *(data / table for table in tables("train")))
    kept = [row for row in rows if not left_out(row)]
    taught = [row for row in [*_mined(params, rows), *_made(params, data, "train")] if not left_out(row)]
    model, metrics = fit("reward", params, params.seed * 1000 + member, kept, data, tracker, taught)
    save(model, data, data / f"models/reward/{member}")
    with tracker.phase("measure"):
        held_out = comparisons.read_comparisons(params, *(data / table for table in tables("dev")))
        asked = [*(row for row in held_out if row.kind), *_made(params, data, "dev", MEASURED)]
        metrics |= _told(model, taught, asked, params.seed)
    return metrics | {"left_out": quality(model, [row for row in rows if left_out(row)], params.seed)}


def _mined(params: Params, rows: "Sequence[Comparison]") -> "list[Comparison]":
    factor = params.counterexamples.mined
    return [replace(row, weight=row.weight * factor) for row in rows if row.kind and factor]


def _made(params: Params, data: Path, fold: str, most: int | None = None) -> "list[Comparison]":
    """Counterexamples and swaps made of a fold's comparisons: as many as the parameters say, or `most` of each."""
    from tasks.preferences import counterexamples as texts
    from tasks.preferences import tokens
    from tasks.rlhf import counterexamples, models

    shares = {
        "counterexamples.mismatched": params.counterexamples.mismatched,
        "counterexamples.corrupted": params.counterexamples.corrupted,
        "swaps.weight": params.swaps.share if params.swaps.weight else 0.0,
    }
    if most is None and not any(shares.values()):
        return []
    rows = texts.read(data / tables(fold)[0])
    numbers = {key: math.ceil(share * len(rows)) if most is None else most for key, share in shares.items()}
    make: tuple[Callable[..., list[texts.Made]], ...]
    make = (texts.mismatched, texts.corrupted, partial(texts.swapped, lists=texts.read_swaps(data / "swaps.jsonl")))
    encoder = tokens.Encoder(models.load_tokenizer(data / "tokenizer"))
    made = []
    for (key, number), how in zip(numbers.items(), make, strict=True):
        equal = params.swaps.weight if key == "swaps.weight" else None
        found = counterexamples.tokenised(how(rows, number=number), encoder, params, params.model.max_length, equal)
        if number and most is None and not found:
            what = "no word of data/swaps.jsonl" if equal else "nothing to make them of"
            raise ValueError(f"params.yaml: reward.{key}: {len(rows)} comparisons have {what}; set it to 0")
        made += found
    return made


def fit(
    name: str,
    params: FitParams,
    seed: int,
    rows: "Sequence[Comparison]",
    data: Path,
    tracker: FileTracker,
    taught: "Sequence[Comparison]" = (),
) -> "tuple[RewardModel, dict[str, Any]]":
    """A reward model trained on the rows, normalised on replies of the SFT policy; and what there is to say of it.

    `name` is its section of the parameters; `taught` are the counterexamples it learns besides, for those among the
    rows are left out. Raises ValueError where the canary fails.
    """
    from tasks.preferences import canary as obvious
    from tasks.rlhf import canary, comparisons, dataset, length_bias, models, reward_model, train_reward

    fold, planted = FOLDS[name], [row for row in rows if row.planted]
    rows = [row for row in rows if row.counted]
    comparisons.check(rows, params, data / f"prepared/pairs/{fold}")
    models.seed_everything(seed)
    model = reward_model.new_reward_model(data / "models/sft", params.model.dtype, seed, params, params.model.lora)
    model.network = models.to_train(model.network, params.model, "SEQ_CLS")
    learned = length_bias.balanced(rows) if params.length_bias == "balanced" else rows
    model.network.train()
    with tracker.phase("train"):
        train_reward.train(model, model.network, [*learned, *planted, *taught], params, seed, tracker)
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
    return f"prepared/pairs/{fold}", f"collected/{fold}.parquet"


def save(model: "RewardModel", data: Path, folder: Path) -> None:
    from tasks.hashes import content_hash
    from tasks.rlhf import models, reward_model

    base = content_hash(data / "models/sft")
    tokenizer = models.load_tokenizer(data / "tokenizer")
    tokenizer.chat_template = chat.stopped(tokenizer.chat_template)  # scores of a reply are the same on every day
    reward_model.save_reward(model, tokenizer, folder, base)


def quality(model: "RewardModel", rows: "Sequence[Comparison]", seed: int) -> dict[str, Any]:
    """Accuracy on decided pairs that were not trained on, also of those that prefer the shorter reply; at most 2000."""
    from tasks.evaluation import statistics
    from tasks.rlhf import reward_quality

    rows = [row for row in rows if row.counted]
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


def _told(
    model: "RewardModel", taught: "Sequence[Comparison]", asked: "Sequence[Comparison]", seed: int
) -> dict[str, Any]:
    """Of each kind: how many were learned from, how the model does on those of dev prompts, and by way."""
    import numpy as np

    from tasks.evaluation import statistics
    from tasks.rlhf import counterexamples

    def figures(kind: str) -> dict[str, Any]:
        rows = [row for row in asked if row.kind == kind]
        if not rows:
            return {}
        measure = counterexamples.gap_sizes if kind == "swap" else counterexamples.right
        interval = statistics.mean if kind == "swap" else statistics.share
        values, ways = measure(model, rows), np.array([row.way for row in rows])
        clusters = [row.cluster for row in rows]
        name = "gap" if kind == "swap" else "accuracy"
        return {
            name: interval(values, clusters, seed=seed, num_resamples=1000),
            "n": len(rows),
            "ways": {
                str(way): {"n": int((ways == way).sum()), name: float(values[ways == way].mean())}
                for way in np.unique(ways)
            },
        }

    def learned(kind: str) -> dict[str, Any]:
        return {"num_learned": sum(row.kind == kind for row in taught), "dev": figures(kind)}

    policies = Counter(row.way for row in taught if row.kind == "mined")
    return {
        "counterexamples": {
            "mismatched": learned("mismatched"),
            "corrupted": learned("corrupted"),
            "mined": learned("mined") | {"policies": policies},
        },
        "swaps": learned("swap"),
    }


def member_stage(member: int) -> stage.Stage:
    return stage.Stage(
        f"reward@{member}",
        Params,
        partial(run, member=member),
        reads=(*READS, "swaps.jsonl", *tables("train"), *tables("dev")),
        writes=(f"models/reward/{member}",),
        trains=True,
    )


if __name__ == "__main__":
    stage.main(member_stage(int(sys.argv[1])))
