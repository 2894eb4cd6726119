"""solutions: reward models for replies in steps, trained on labels; one per call, `python -m tasks.solutions process`.

reads   data/models/sft  data/tokenizer  data/prepared/solutions
        data/raw/solutions, data/prepared/canary.json (the canary's texts, and which they are)
writes  data/models/reward/<outcome | process>

outcome: is the final answer right, process: is each step right. Both are measured on prompts held out for tests.
"""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.rlhf.options import DatasetOptions, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.preferences.canary import Obvious
    from tasks.rlhf.batch import Example
    from tasks.rlhf.process import Solution
    from tasks.rlhf.reward_model import RewardModel

KINDS = ("outcome", "process")


def _once(kinds: list[str]) -> list[str]:
    if len(set(kinds)) < len(kinds):
        raise ValueError("names a model twice")
    return kinds


class Params(stage.Params, DatasetOptions):
    seed: stage.Seed
    model: ModelOptions
    train: Annotated[list[Literal["outcome", "process"]], AfterValidator(_once)]  # each a stage of its own
    min_auc: Annotated[float, Field(ge=0, lt=1)] = 0.6  # of right over wrong on held-out prompts; 0: not asked
    # of right solutions against noise, to be exceeded by those told right; 0: not asked
    canary_share: Annotated[float, Field(ge=0, lt=1)] = 0.9


def run(params: Params, data: Path, tracker: FileTracker, *, kind: str) -> dict[str, Any]:
    from tasks.preferences import canary as obvious
    from tasks.rlhf import models, outcome, process, reward_model, solution_models

    tokenizer = models.load_tokenizer(data / "tokenizer")
    rows, held_out = (
        process.read_solutions(data / f"prepared/solutions/{fold}", tokenizer) for fold in ("train", "test")
    )
    check(data, params.canary_share)
    own = [row for row in rows if not row.planted]
    texts = obvious.read(data, obvious.SOLUTIONS)
    seed = params.seed * 1000 + 500 + KINDS.index(kind)  # far from those of reward and judge
    models.seed_everything(seed)
    model = reward_model.new_reward_model(data / "models/sft", params.model.dtype, seed, lora=params.model.lora)
    model.network = models.to_train(model.network, params.model, "SEQ_CLS").train()
    with tracker.phase("train"):
        if kind == "outcome":
            outcome.train(model, model.network, process.verdicts(rows), params, seed, tracker)
        else:
            process.train(model, model.network, rows, params, seed, tracker)
    model.network.eval()
    with tracker.phase("measure"):
        measured = quality(kind, model, held_out, seed)
        told = _canary(params, kind, model, tokenizer, *texts) if any(texts) else None
    if (auc := measured.get("auc")) is not None and auc < params.min_auc:
        raise ValueError(
            f"solutions: {kind}: on held-out prompts right scores above wrong in {auc:.0%} of cases, "
            f"below solutions.min_auc = {params.min_auc}: little was learned; lower solutions.lr, or raise num_epochs"
        )
    solution_models.save(kind, model, [row.domain for row in own], tokenizer, data / f"models/reward/{kind}")
    last = tracker.curve[max(tracker.curve)]
    return {"num_solutions": len(own), "final_loss": last["loss"], "held_out": measured, "canary": told}


def check(data: Path, canary_share: float) -> None:
    """ValueError where there is nothing to learn from, or nothing is planted and `canary_share` of it asked for."""
    import pyarrow.compute as pc

    from tasks.records import CANARY, read_table

    path = data / "prepared/solutions/train"
    sources = read_table(path, ["source"])["source"]
    planted = pc.sum(pc.equal(sources, CANARY)).as_py() or 0
    if planted == len(sources):
        raise ValueError(
            f"solutions: {path} is empty: there is nothing to train on; name a source of solutions in ingest.sources "
            "(kind: world_steps, or a file), or set solutions.train to []"
        )
    if canary_share and not planted:
        raise ValueError(
            f"solutions.canary_share = {canary_share}: no solution of {data}/raw/solutions, of a prompt to learn from, "
            "is right throughout, so none could be planted; give some, or set it to 0"
        )


def _canary(
    params: Params,
    kind: str,
    model: "RewardModel",
    tokenizer: Any,
    planted: "Sequence[Obvious]",
    held_out: "Sequence[Obvious]",
) -> dict[str, Any]:
    """Right solutions against noise, by score. ValueError where too few are told right."""
    from tasks.rlhf import canary, process, reward_model

    def scores(examples: "Sequence[Example]") -> Any:
        if kind == "outcome":
            return reward_model.score_examples(model, examples)
        return process.mean_probabilities(model, examples, tokenizer)

    canaries = canary.tokenised(planted, held_out, tokenizer, params.model.max_length)
    return canary.check(canaries, lambda true, ruined: scores(true) - scores(ruined), params.canary_share, "solutions")


def quality(kind: str, model: "RewardModel", rows: "Sequence[Solution]", seed: int) -> dict[str, Any]:
    """What tasks/rlhf/{outcome,process}.py measure, with intervals over prompts, and the AUC of right over wrong.

    The AUC is None where all labels are alike.
    """
    from tasks.evaluation import statistics
    from tasks.rlhf import outcome, process

    clusters = [row.cluster for row in rows]
    if kind == "outcome":
        verdicts = process.verdicts(rows)
        clusters = [row.cluster for row in rows if row.correct is not None]
        if not verdicts:
            return {}
        found = {"accuracy": list(enumerate(outcome.told_right(model, verdicts)))}
        auc = outcome.measure(model, verdicts)["auc"]
    else:
        probabilities = process.step_probabilities(model, rows)
        found = process.judgements(probabilities, rows)
        auc = process.auc(probabilities, rows)
    return {"auc": auc} | {
        name: statistics.share(
            [value for _, value in values], [clusters[row] for row, _ in values], seed=seed, num_resamples=1000
        )
        for name, values in found.items()
    }


def member_stage(kind: str) -> stage.Stage:
    return stage.Stage(
        f"solutions@{kind}",
        Params,
        partial(run, kind=kind),
        reads=("models/sft", "tokenizer", "prepared/solutions", "prepared/canary.json", "raw/solutions"),
        writes=(f"models/reward/{kind}",),
        trains=True,
    )


if __name__ == "__main__":
    stage.main(member_stage(sys.argv[1]))
